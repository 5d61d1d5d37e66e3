//! What the demo applies, written as a person would write it.

/// Two stages: RUN, COPY --chown and a cache mount.
pub(super) fn dockerfile(base: &str) -> String {
    format!(
        "FROM {base} AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/var/cache/demo sh build.sh

FROM {base}
COPY --from=build --chown=1000:1000 /src/hello /usr/bin/hello
USER 1000
CMD [\"hello\"]
"
    )
}

/// What the first stage runs: it makes the program that prints SUCCESS.
pub(super) const BUILD_SCRIPT: &str = "date > /var/cache/demo/last-build
printf '#!/bin/sh\\necho SUCCESS\\n' > hello
chmod 0755 hello
";

/// The base image: busybox and its links.
pub(super) const BASE_DOCKERFILE: &str = "FROM scratch
COPY busybox /bin/busybox
RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]
ENV PATH=/usr/bin:/bin
";

/// The claim that holds the build context, and the pod that fills it from a config map.
pub(super) fn workspace(base: &str) -> String {
    format!(
        "apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: kaniko-workspace
spec:
  accessModes: [ReadWriteOnce]
  resources:
    requests:
      storage: 1Gi
---
apiVersion: v1
kind: Pod
metadata:
  name: fill-workspace
spec:
  restartPolicy: Never
  imagePullSecrets:
  - name: regcred
  containers:
  - name: fill
    image: {base}
    command: [sh, -ec, 'cp -L /sources/* /workspace/']
    volumeMounts:
    - {{name: workspace, mountPath: /workspace}}
    - {{name: sources, mountPath: /sources}}
  volumes:
  - name: workspace
    persistentVolumeClaim:
      claimName: kaniko-workspace
  - name: sources
    configMap:
      name: sources
"
    )
}

/// The build: a kaniko Job as in the tutorials, in a pod with only the default rights.
pub(super) fn build_job(destination: &str) -> String {
    format!(
        "apiVersion: batch/v1
kind: Job
metadata:
  name: build-image
spec:
  backoffLimit: 3
  template:
    spec:
      restartPolicy: Never
      securityContext:
        seccompProfile:
          type: RuntimeDefault
      containers:
      - name: build-image
        image: gcr.io/kaniko-project/executor:latest
        args:
        - --context=/workspace
        - --dockerfile=/workspace/Dockerfile
        - --destination={destination}
        volumeMounts:
        - name: workspace
          mountPath: /workspace
        - name: docker-config
          mountPath: /kaniko/.docker
      volumes:
      - name: workspace
        persistentVolumeClaim:
          claimName: kaniko-workspace
      - name: docker-config
        secret:
          secretName: regcred
          items:
          - key: .dockerconfigjson
            path: config.json
"
    )
}

/// A pod that runs the private image, with or without the secret.
pub(super) fn pod(name: &str, image: &str, with_secret: bool) -> String {
    let secret = if with_secret { "  imagePullSecrets:\n  - name: regcred\n" } else { "" };
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: {name}
spec:
  restartPolicy: Never
{secret}  containers:
  - name: main
    image: {image}
    imagePullPolicy: Always
"
    )
}
