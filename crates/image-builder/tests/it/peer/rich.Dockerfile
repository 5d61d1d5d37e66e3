FROM base
RUN mkdir -p /opt/app/deep /srv/shared /var/lib/store /links && \
    echo app > /opt/app/main && echo deep > /opt/app/deep/file && \
    chown -R app:extra /opt/app && chmod 750 /opt/app && chmod 1777 /srv/shared && \
    ln -s /opt/app /links/app && ln -s ../opt/app/main /links/main && ln -s nowhere /links/dangling && \
    ln -s /links/dangling-dir/x /links/dangling-dir && ln -s a /links/b && ln -s b /links/a && \
    echo h > /opt/hard && ln /opt/hard /opt/hard2 && echo u > /opt/suid && chmod 4755 /opt/suid
COPY special/capable /opt/capable
ENV RICH="a value" LEVEL=1
LABEL level=1 kind=rich
EXPOSE 8080
VOLUME /var/lib/store
WORKDIR /opt/app
ENTRYPOINT ["/bin/echo"]
CMD ["rich"]
