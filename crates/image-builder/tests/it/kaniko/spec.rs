//! A build and what is expected of it, in one expression.

use std::cell::RefCell;
use std::io::{BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use blob_store::BlobStore;
use container_runtime::Mode;
use dockerfile::PlanOptions;
use image_builder::{BuildError, BuildOutcome, BuildRequest, CacheUse, SecretBytes, SecretSource};
use layers::{ArchiveReader, Decoder};
use oci_model::Manifest;
use serde_json::Value;

use super::{POD_CONTEXT, machine, mode};
use crate::fixture::Machine;

type Change = Box<dyn Fn(&mut PlanOptions, &mut BuildRequest)>;

/// A build to be.
pub(crate) struct Spec {
    text: String,
    machine: Rc<Machine>,
    /// A context of its own; `None` is the shared one of `fixture::write_context`.
    own: Option<tempfile::TempDir>,
    changes: Vec<Change>,
    cache: CacheUse,
}

/// Starts with a Dockerfile. `base` is the busybox of the fixture. Nothing is taken from caches.
pub(crate) fn dockerfile(text: &str) -> Spec {
    Spec {
        text: text.to_owned(),
        machine: machine(),
        own: None,
        changes: Vec::new(),
        cache: CacheUse::Ignore,
    }
}

impl Spec {
    /// The context of the build, an empty one of its own if nobody added anything yet.
    fn own(&mut self) -> &Path {
        let home = self.machine.root.path();
        self.own.get_or_insert_with(|| tempfile::tempdir_in(home).expect("a directory")).path()
    }

    fn place(&mut self, path: &str) -> PathBuf {
        let path = self.own().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        path
    }

    /// The context holds a file (0644); `name/` is a directory (0755).
    pub(crate) fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.file_with(path, 0o644, content)
    }

    /// The context holds a file or `directory/` of this mode.
    pub(crate) fn file_with(mut self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        let full = self.place(path);
        let mode = if path.ends_with('/') {
            std::fs::create_dir_all(&full).expect("a directory");
            if mode == 0o644 { 0o755 } else { mode }
        } else {
            std::fs::write(&full, content).expect("a file");
            mode
        };
        std::fs::set_permissions(&full, std::fs::Permissions::from_mode(mode)).expect("ours");
        self
    }

    /// The context holds a symbolic link.
    pub(crate) fn link(mut self, path: &str, target: &str) -> Self {
        symlink(target, self.place(path)).expect("a link");
        self
    }

    /// The context holds two names of one file.
    pub(crate) fn hardlink(mut self, path: &str, target: &str) -> Self {
        let target = self.own().join(target);
        std::fs::hard_link(target, self.place(path)).expect("a link");
        self
    }

    /// A path of the context belongs to someone.
    pub(crate) fn owned(mut self, path: &str, uid: u32, gid: u32) -> Self {
        let path = self.own().join(path);
        std::os::unix::fs::lchown(path, Some(uid), Some(gid)).expect("root");
        self
    }

    /// The context as it stands in the file system, for what the other methods cannot say.
    pub(crate) fn arrange(mut self, arrange: impl FnOnce(&Path)) -> Self {
        arrange(self.own());
        self
    }

    /// `--build-arg`.
    pub(crate) fn arg(self, name: &'static str, value: &'static str) -> Self {
        self.with(move |options, _| {
            options.build_args.insert(name.into(), value.into());
        })
    }

    /// `--target`.
    pub(crate) fn target(self, name: &'static str) -> Self {
        self.with(move |options, _| options.target = Some(name.into()))
    }

    /// `--secret`.
    pub(crate) fn secret(self, id: &'static str, value: &'static str) -> Self {
        self.with(move |_, request| {
            let value = SecretSource::Value(SecretBytes::new(value));
            request.secrets.insert(id.into(), value);
        })
    }

    /// Any other option.
    pub(crate) fn with(
        mut self,
        change: impl Fn(&mut PlanOptions, &mut BuildRequest) + 'static,
    ) -> Self {
        self.changes.push(Box::new(change));
        self
    }

    /// Earlier results count, and cache mounts keep what they hold.
    pub(crate) fn cached(mut self) -> Self {
        self.cache = CacheUse::Use;
        self
    }

    fn try_build(&self) -> Result<BuildOutcome, BuildError> {
        let context = match &self.own {
            Some(own) => own.path().to_owned(),
            None if mode() == Mode::InPlace => POD_CONTEXT.into(),
            None => self.machine.root.path().join("context"),
        };
        self.machine.build_with(mode(), &self.text, &context, |options, request| {
            request.cache = self.cache;
            for change in &self.changes {
                change(options, request);
            }
        })
    }

    /// Builds.
    pub(crate) fn build(&self) -> Built {
        match self.try_build() {
            Ok(outcome) => Built {
                outcome,
                printed: self.machine.printed(),
                machine: Rc::clone(&self.machine),
                unpacked: RefCell::default(),
            },
            Err(error) => panic!("{}\n{}", chain(&error), self.machine.printed()),
        }
    }

    /// Builds a base and keeps it under a name for FROM.
    pub(crate) fn keep(self, name: &str) {
        let built = self.build();
        self.machine.keep(&built.outcome, name);
    }

    /// Builds in vain; the texts of the error and its causes.
    pub(crate) fn fails(self) -> String {
        match self.try_build() {
            Ok(_) => panic!("the build succeeds"),
            Err(error) => chain(&error),
        }
    }
}

fn chain(error: &BuildError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A finished build, to be looked at. Paths are absolute paths of the image.
pub(crate) struct Built {
    pub(crate) outcome: BuildOutcome,
    pub(crate) printed: String,
    machine: Rc<Machine>,
    unpacked: RefCell<Option<tempfile::TempDir>>,
}

impl Built {
    /// Where a path of the image is on this machine.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        let mut unpacked = self.unpacked.borrow_mut();
        let unpacked = unpacked.get_or_insert_with(|| {
            let directory = tempfile::tempdir_in(self.machine.root.path()).expect("a directory");
            let output = image_builder::Output::Files(directory.path().join("root"));
            self.machine.write(&self.outcome, &output, "unused");
            directory
        });
        unpacked.path().join("root").join(path.trim_start_matches('/'))
    }

    fn metadata(&self, path: &str) -> std::fs::Metadata {
        let at = self.at(path);
        at.symlink_metadata().unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// A path looks like this: `dir 755 0:0`, `file 4755 1:2`, `fifo …`, `device …`.
    #[track_caller]
    pub(crate) fn is(&self, path: &str, look: &str) -> &Self {
        let metadata = self.metadata(path);
        let kind = metadata.file_type();
        let word = match () {
            () if kind.is_dir() => "dir",
            () if kind.is_symlink() => "link",
            () if kind.is_file() => "file",
            () if kind.is_fifo() => "fifo",
            () => "device",
        };
        let (mode, uid, gid) = (metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
        let found = match word {
            "link" => format!("link {uid}:{gid}"),
            _ => format!("{word} {mode:o} {uid}:{gid}"),
        };
        assert_eq!(found, look, "{path}");
        self
    }

    /// A path is a file with this content.
    #[track_caller]
    pub(crate) fn holds(&self, path: &str, content: &str) -> &Self {
        assert!(self.metadata(path).is_file(), "{path} is no file");
        let bytes = std::fs::read(self.at(path)).expect("readable");
        assert_eq!(String::from_utf8_lossy(&bytes), content, "{path}");
        self
    }

    /// A path is a symbolic link to this target.
    #[track_caller]
    pub(crate) fn links(&self, path: &str, target: &str) -> &Self {
        assert!(self.metadata(path).is_symlink(), "{path} is no link");
        assert_eq!(std::fs::read_link(self.at(path)).expect("a link"), Path::new(target), "{path}");
        self
    }

    /// There is nothing at a path.
    #[track_caller]
    pub(crate) fn lacks(&self, path: &str) -> &Self {
        assert!(self.at(path).symlink_metadata().is_err(), "{path} is there");
        self
    }

    /// All paths are names of one file, and it has no others.
    #[track_caller]
    pub(crate) fn one_file(&self, paths: &[&str]) -> &Self {
        let inode = |path: &&str| (self.metadata(path).ino(), self.metadata(path).nlink());
        let inodes: Vec<_> = paths.iter().map(inode).collect();
        let expected = vec![(inodes[0].0, paths.len() as u64); paths.len()];
        assert_eq!(inodes, expected, "inode and link count of {paths:?}");
        self
    }

    /// A path was last modified at this second of Unix time.
    #[track_caller]
    pub(crate) fn modified(&self, path: &str, second: i64) -> &Self {
        assert_eq!(self.metadata(path).mtime(), second, "{path}");
        self
    }

    /// The names in a directory, sorted.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let directory = std::fs::read_dir(self.at(path)).expect("a directory");
        let name = |item: std::io::Result<std::fs::DirEntry>| {
            item.expect("readable").file_name().into_string().expect("UTF-8")
        };
        let mut names: Vec<String> = directory.map(name).collect();
        names.sort();
        names
    }

    /// A directory holds exactly these names.
    #[track_caller]
    pub(crate) fn directory(&self, path: &str, names: &[&str]) -> &Self {
        assert_eq!(self.names(path), names, "{path}");
        self
    }

    /// The value of an extended attribute.
    pub(crate) fn attribute(&self, path: &str, name: &str) -> Option<Vec<u8>> {
        let mut value = vec![0; 256];
        let length = rustix::fs::lgetxattr(self.at(path), name, &mut value).ok()?;
        value.truncate(length);
        Some(value)
    }

    /// Commands printed exactly this.
    #[track_caller]
    pub(crate) fn prints(&self, text: &str) -> &Self {
        assert_eq!(self.printed, text);
        self
    }

    /// The config has a value at a JSON pointer; `Value::Null` says that it has none.
    #[track_caller]
    pub(crate) fn config(&self, pointer: &str, value: &Value) -> &Self {
        let config = serde_json::to_value(&self.outcome.image).expect("json");
        assert_eq!(config.pointer(pointer).unwrap_or(&Value::Null), value, "{pointer}");
        self
    }

    /// The entries of a layer, the topmost being 0, as archives spell them: directories end with
    /// a slash, links show `-> target`, hard links `=> name`.
    pub(crate) fn layer(&self, from_top: usize) -> Vec<String> {
        let Manifest::Image(image) = self.outcome.manifest.parsed() else { panic!("an index") };
        let descriptor = image.layers.iter().rev().nth(from_top).expect("so many layers");
        let store = BlobStore::open(self.machine.root.path().join("state/blobs")).expect("a store");
        let blob = store.open_blob(&descriptor.digest).expect("a blob").into_file();
        let mut reader = ArchiveReader::new(BufReader::new(Decoder::new(blob).expect("a blob")));
        let mut entries = Vec::new();
        while let Some(entry) = reader.next_entry().expect("an archive") {
            let path = entry.path.display();
            entries.push(match &entry.kind {
                layers::EntryKind::Directory => format!("{path}/"),
                layers::EntryKind::Symlink { target } => format!("{path} -> {}", target.display()),
                layers::EntryKind::Hardlink { target } => format!("{path} => {}", target.display()),
                _ => path.to_string(),
            });
        }
        entries
    }

    /// The topmost layer holds exactly these entries.
    #[track_caller]
    pub(crate) fn top_layer(&self, entries: &[&str]) -> &Self {
        assert_eq!(self.layer(0), entries);
        self
    }

    /// The image has so many layers on top of those of `base`.
    #[track_caller]
    pub(crate) fn own_layers(&self, count: usize) -> &Self {
        let base = self.machine.build(Mode::None, crate::fixture::BASE, &self.base_context());
        let base = base.expect("cached").layer_count();
        assert_eq!(self.outcome.layer_count() - base, count);
        self
    }

    fn base_context(&self) -> PathBuf {
        match std::env::var_os(crate::fixture::BASE_CONTEXT) {
            Some(context) => context.into(),
            None => self.machine.root.path().join("base"),
        }
    }

    /// Keeps the image under a name for FROM.
    pub(crate) fn keep(&self, name: &str) {
        self.machine.keep(&self.outcome, name);
    }
}

/// An HTTP server for `requests` requests; it answers with what stands at the path, or with 404.
/// Returns its address, which ends without a slash.
pub(super) fn serve(requests: usize, files: &'static [(&'static str, &'static str)]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in listener.incoming().take(requests) {
            let mut stream = stream.expect("a connection");
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                request.push(byte[0]);
            }
            let request = String::from_utf8_lossy(&request).into_owned();
            let path = request.split(' ').nth(1).unwrap_or_default();
            let answer = match files.iter().find(|(name, _)| *name == path) {
                Some((_, content)) => format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nLast-Modified: Thu, 01 Jan 2015 \
                     00:00:00 GMT\r\nConnection: close\r\n\r\n{content}",
                    content.len()
                ),
                None => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    .to_owned(),
            };
            // A client that has seen enough may be gone.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}

/// A tar archive of these entries.
pub(super) fn archive(entries: &[(layers::Entry, &str)]) -> Vec<u8> {
    let mut writer = layers::LayerWriter::new(Vec::new(), layers::Timestamps::Keep);
    for (entry, content) in entries {
        let written = writer.add_with(entry, &mut content.as_bytes());
        written.expect("an entry");
    }
    writer.finish().expect("an archive")
}
