//! Contexts from everywhere, and what ADD fetches: against servers of the test's own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use container_runtime::Mode;
use image_builder::{
    BuildOutcome, Cloud, ContextAccess, ContextDirectory, ContextLimits, ContextLocation,
    CredentialSource, FetchedContext, GitCredentials, GitReference, NamedContext, ObjectLocation,
    SecretBytes, SecretSource, StepError, Submodules, fetch_context,
};
use oci_model::Digest;
use registry_client::{Client, ClientOptions};

use crate::fixture::Machine;
use crate::tests;
use crate::web::{Request, Response, Web, git, repository};

tests![
    archives_over_http_are_unpacked_whatever_their_compression,
    a_broken_or_refused_archive_is_an_error_with_its_url,
    s3_objects_are_asked_for_with_a_signature,
    google_objects_are_asked_for_with_a_token_of_the_account,
    azure_blobs_are_asked_for_with_the_accounts_key,
    git_contexts_have_refs_commits_and_directories,
    git_servers_get_credentials_and_nobody_else_does,
    added_repositories_elsewhere_are_not_told_the_credentials_of_the_context,
    links_of_a_repository_do_not_lead_out_of_it,
    an_unchanged_url_is_not_fetched_again,
    a_checksum_is_enough_for_a_hit,
    added_repositories_follow_ref_directory_and_flags,
    added_repositories_with_sha256_work_alike,
    a_full_commit_is_a_hit_without_the_server,
    queries_choose_what_is_added,
    named_directories_have_their_own_ignore_file,
    named_images_replace_bases_stages_and_sources,
    layouts_are_bases_by_tag_and_digest,
    contexts_elsewhere_are_fetched_when_they_are_needed,
];

fn access(root: &Path, git: GitCredentials) -> ContextAccess {
    ContextAccess {
        scratch: root.join("scratch"),
        blobs: root.join("blobs"),
        client: Client::new(ClientOptions::default()).expect("a client"),
        credentials: CredentialSource::anonymous(),
        git,
        limits: ContextLimits::default(),
    }
}

fn fetch_with(
    location: &ContextLocation,
    git: GitCredentials,
) -> Result<(FetchedContext, tempfile::TempDir), StepError> {
    let root = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let context = runtime.block_on(fetch_context(location, &access(root.path(), git)))?;
    Ok((context, root))
}

fn fetch(location: &ContextLocation) -> Result<(FetchedContext, tempfile::TempDir), StepError> {
    fetch_with(location, GitCredentials::default())
}

fn read(context: &FetchedContext, path: &str) -> String {
    std::fs::read_to_string(context.root.join(path)).expect(path)
}

/// An archive with one file `src/a`, packed by tar with a flag.
fn archive(flag: &str) -> Vec<u8> {
    let root = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(root.path().join("src")).expect("a directory");
    std::fs::write(root.path().join("src/a"), "hello").expect("a file");
    let mut tar = std::process::Command::new("tar");
    tar.current_dir(root.path()).args([flag, "--mtime=@1500000000", "-cf", "-", "src"]);
    let output = tar.output().expect("tar");
    assert!(output.status.success());
    output.stdout
}

fn archives_over_http_are_unpacked_whatever_their_compression() {
    for flag in ["--gzip", "--xz", "--bzip2", "--zstd", "--no-auto-compress"] {
        let web = Web::new(move |_| {
            Response::new(200, archive(flag)).with("Last-Modified", "Thu, 02 Jan 2020 03:04:05 GMT")
        });
        let (context, _root) = fetch(&ContextLocation::Url(web.url("/c"))).expect(flag);
        assert_eq!(read(&context, "src/a"), "hello", "{flag}");
        // The newest file says more than the server (BuildKit, SourceDateEpochContextHTTPArchive).
        assert_eq!(context.time, Some(1_500_000_000));
        assert_eq!(context.digest, Some(Digest::of(&archive(flag))), "{flag}");
    }
    let web = Web::new(|_| Response::new(200, "FROM scratch\n"));
    let (context, _root) = fetch(&ContextLocation::Url(web.url("/Dockerfile"))).expect("a file");
    assert!(context.dockerfile_only);
    assert_eq!(read(&context, "Dockerfile"), "FROM scratch\n");
}

fn a_broken_or_refused_archive_is_an_error_with_its_url() {
    let text = |error: &StepError| {
        let mut text = error.to_string();
        let mut next = std::error::Error::source(error);
        while let Some(cause) = next {
            text.push_str(&format!(": {cause}"));
            next = cause.source();
        }
        text
    };
    let gone = Web::new(|_| Response::new(404, ""));
    let error = fetch(&ContextLocation::Url(gone.url("/c"))).expect_err("404");
    assert!(text(&error).contains("bad status from server: 404"), "{}", text(&error));
    let packed = archive("--gzip");
    let half = Web::new(move |_| Response::new(200, &packed[..packed.len() / 2]));
    let error = fetch(&ContextLocation::Url(half.url("/c"))).expect_err("half an archive");
    assert!(text(&error).contains(&half.url("/c")), "{}", text(&error));
}

fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn object(cloud: Cloud, pairs: &[(&str, &str)]) -> ContextLocation {
    let object = ObjectLocation::new(cloud, "box/dir/context.tar.gz", settings(pairs));
    ContextLocation::Object(object.expect("an object"))
}

/// HMAC-SHA256 (RFC 2104) from the hash alone.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let key = if 64 < key.len() { Digest::of(key).raw().to_vec() } else { key.to_vec() };
    let pad = |with: u8| {
        let mut block = [with; 64];
        block.iter_mut().zip(&key).for_each(|(byte, key)| *byte ^= key);
        block.to_vec()
    };
    let inner = Digest::of(&[pad(0x36), message.to_vec()].concat());
    Digest::of(&[pad(0x5c), inner.raw().to_vec()].concat()).raw().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a request is signed with the secret key (AWS Signature Version 4).
fn has_aws_signature(request: &Request, secret: &str) -> bool {
    let check = || {
        let fields = request.header("authorization")?.strip_prefix("AWS4-HMAC-SHA256 ")?;
        let field = |name: &str| fields.split(", ").find_map(|one| one.strip_prefix(name));
        let scope = field("Credential=")?.split_once('/')?.1;
        let names = field("SignedHeaders=")?;
        let headers: String = names
            .split(';')
            .map(|name| format!("{name}:{}\n", request.header(name).unwrap_or_default()))
            .collect();
        let canonical = format!(
            "{}\n{}\n\n{headers}\n{names}\n{}",
            request.method,
            request.path(),
            request.header("x-amz-content-sha256")?
        );
        let text = format!(
            "AWS4-HMAC-SHA256\n{}\n{scope}\n{}",
            request.header("x-amz-date")?,
            Digest::of(canonical.as_bytes()).encoded()
        );
        let key = scope
            .split('/')
            .fold(format!("AWS4{secret}").into_bytes(), |key, part| hmac(&key, part.as_bytes()));
        Some(field("Signature=")? == hex(&hmac(&key, text.as_bytes())))
    };
    check().unwrap_or(false)
}

fn s3_objects_are_asked_for_with_a_signature() {
    let web = Web::new(|request| {
        if !has_aws_signature(request, "secret") {
            return Response::new(403, "<Error><Code>SignatureDoesNotMatch</Code></Error>");
        }
        match request.path() {
            "/box/dir/context.tar.gz" => Response::new(200, archive("--gzip"))
                .with("Last-Modified", "Thu, 02 Jan 2020 03:04:05 GMT")
                .with("ETag", "\"1\""),
            _ => Response::new(404, ""),
        }
    });
    let with = |secret: &str| {
        object(
            Cloud::S3,
            &[
                ("aws_access_key_id", "key"),
                ("aws_secret_access_key", secret),
                ("aws_region", "eu-west-1"),
                ("aws_endpoint_url_s3", &web.url("")),
            ],
        )
    };
    let (context, _root) = fetch(&with("secret")).expect("an object");
    assert_eq!(read(&context, "src/a"), "hello");
    let error = fetch(&with("wrong")).expect_err("another key").to_string();
    assert!(error.contains("s3://box/dir/context.tar.gz") && !error.contains("wrong"), "{error}");
}

fn google_objects_are_asked_for_with_a_token_of_the_account() {
    let key = std::process::Command::new("openssl").args(["genrsa", "2048"]).output();
    let key = String::from_utf8(key.expect("openssl").stdout).expect("PEM");
    let web = Web::new(|request| {
        let token = request.header("authorization").and_then(|text| text.strip_prefix("Bearer "));
        // What stands between the dots is header, claims and signature (RFC 7519).
        let claims = token.and_then(|token| token.split('.').nth(1)).unwrap_or_default();
        if !String::from_utf8_lossy(&base64url(claims)).contains("robot@example.com") {
            return Response::new(401, "");
        }
        if !request.path().contains("context") {
            return Response::new(404, "");
        }
        Response::new(200, archive("--gzip"))
            .with("Last-Modified", "Thu, 02 Jan 2020 03:04:05 GMT")
            .with("ETag", "\"1\"")
    });
    let root = tempfile::tempdir().expect("a directory");
    let account = root.path().join("account.json");
    let document = serde_json::json!({
        "type": "service_account",
        "private_key": key,
        "private_key_id": "1",
        "client_email": "robot@example.com",
    });
    std::fs::write(&account, document.to_string()).expect("a file");
    let found = fetch(&object(
        Cloud::Google,
        &[
            ("google_application_credentials", account.to_str().expect("UTF-8")),
            ("google_base_url", &web.url("")),
        ],
    ));
    let (context, _root) = found.unwrap_or_else(|error| panic!("{error}: {:?}", web.requests()));
    assert_eq!(read(&context, "src/a"), "hello");
}

fn base64url(text: &str) -> Vec<u8> {
    let value = |byte: u8| {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        alphabet.iter().position(|other| *other == byte).unwrap_or(0)
    };
    let mut bytes = Vec::new();
    for four in text.as_bytes().chunks(4) {
        let bits =
            four.iter().fold(0, |bits, byte| bits << 6 | value(*byte)) << (6 * (4 - four.len()));
        let three = [(bits >> 16) as u8, (bits >> 8) as u8, bits as u8];
        bytes.extend_from_slice(&three[..four.len() * 3 / 4]);
    }
    bytes
}

/// Whether a request is signed with the account's key (Azure storage, Shared Key).
fn has_azure_signature(request: &Request, key: &[u8]) -> bool {
    let mut names: Vec<&(String, String)> =
        request.headers.iter().filter(|(name, _)| name.starts_with("x-ms-")).collect();
    names.sort();
    let headers: String = names.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    // Encoding, language, length, MD5, type, date, five conditions.
    let date = request.header("date").unwrap_or_default();
    let (method, path) = (&request.method, request.path());
    let text = format!("{method}\n\n\n\n\n\n{date}\n\n\n\n\n\n{headers}/acc{path}");
    let signature = request
        .header("authorization")
        .and_then(|text| text.strip_prefix("SharedKey acc:"))
        .unwrap_or_default()
        .replace('+', "-")
        .replace('/', "_");
    base64url(signature.trim_end_matches('=')) == hmac(key, text.as_bytes())
}

fn azure_blobs_are_asked_for_with_the_accounts_key() {
    let web = Web::new(|request| {
        if !has_azure_signature(request, b"0123456789abcdef") {
            return Response::new(403, "");
        }
        Response::new(200, archive("--gzip"))
            .with("Last-Modified", "Thu, 02 Jan 2020 03:04:05 GMT")
            .with("ETag", "\"1\"")
    });
    let azure = |key: &str| {
        let cloud = Cloud::Azure { account: "acc".to_owned(), endpoint: web.url("") };
        object(cloud, &[("azure_storage_access_key", key)])
    };
    let found = fetch(&azure("MDEyMzQ1Njc4OWFiY2RlZg=="));
    let (context, _root) = found.unwrap_or_else(|error| panic!("{error}: {:?}", web.requests()));
    assert_eq!(read(&context, "src/a"), "hello");
    assert!(fetch(&azure("AAAA")).is_err());
}

/// Two commits, a branch, an annotated tag, a directory, a script.
const HISTORY: &str = "mkdir sub; echo first > f; echo below > sub/g; echo 'echo' > run.sh; \
    chmod 755 run.sh; git add .; git commit -q -m 1; git tag -a v1 -m v1; \
    git checkout -q -b dev; echo dev > f; git commit -q -a -m 2; git checkout -q main; \
    echo last > f; git commit -q -a -m 3; git update-ref refs/pull/7/head dev";

fn git_context(web: &Web, name: &str) -> GitReference {
    GitReference { repository: web.url(&format!("/{name}.git")), ..GitReference::default() }
}

fn git_contexts_have_refs_commits_and_directories() {
    for format in ["sha1", "sha256"] {
        let root = tempfile::tempdir().expect("a directory");
        let work = repository(root.path(), "r", format, HISTORY);
        git(&work, &["push", "-q", "../r.git", "refs/pull/7/head"]);
        let (first, dev) = (git(&work, &["rev-parse", "v1^{}"]), git(&work, &["rev-parse", "dev"]));
        let web = Web::git(root.path(), |_| true);
        let base = git_context(&web, "r");
        let of = |change: &dyn Fn(&mut GitReference)| {
            let mut reference = base.clone();
            change(&mut reference);
            let (context, root) = fetch(&ContextLocation::Git(reference)).expect("a commit");
            let text = read(&context, if context.root.ends_with("sub") { "g" } else { "f" });
            let commit = context.commit.as_deref().expect("a commit");
            let time = git(&work, &["show", "--no-patch", "--format=%ct", commit]);
            assert_eq!(context.time.map(|time| time.to_string()), Some(time));
            drop(root);
            (text.trim().to_owned(), context.commit.clone().unwrap_or_default())
        };
        assert_eq!(of(&|_| {}).0, "last", "{format}");
        assert_eq!(of(&|r| r.depth = 1).0, "last");
        assert_eq!(of(&|r| r.reference = Some("dev".into())), ("dev".into(), dev.clone()));
        assert_eq!(of(&|r| r.reference = Some("v1".into())), ("first".into(), first.clone()));
        assert_eq!(of(&|r| r.reference = Some("refs/pull/7/head".into())).1, dev);
        assert_eq!(of(&|r| r.reference = Some(first.clone())).0, "first");
        assert_eq!(of(&|r| r.reference = Some(first[..12].to_owned())).0, "first");
        let both = |r: &mut GitReference| {
            (r.reference, r.commit) = (Some("main".into()), Some(first.clone()));
        };
        assert_eq!(of(&both).0, "first");
        assert_eq!(of(&|r| r.subdirectory = Some("sub".into())).0, "below");
        let mut unknown = base.clone();
        unknown.reference = Some("nobody".into());
        let error = fetch(&ContextLocation::Git(unknown)).expect_err("no such ref").to_string();
        assert!(error.contains("does not contain ref nobody"), "{error}");
    }
}

fn git_servers_get_credentials_and_nobody_else_does() {
    let root = tempfile::tempdir().expect("a directory");
    // user:pass
    let web = Web::git(root.path(), |auth| auth == Some("Basic dXNlcjpwYXNz"));
    let stranger = Web::git(root.path(), |auth| auth.is_some());
    repository(root.path(), "m", "sha1", "echo module > f; git add .; git commit -q -m 1");
    let modules = format!(
        "echo own > f; git add .; git -c protocol.file.allow=always submodule --quiet add \
         {}/m.git m; git config -f .gitmodules submodule.m.url {}; git add .; git commit -q -m 1",
        root.path().display(),
        stranger.url("/m.git"),
    );
    repository(root.path(), "r", "sha1", &modules);
    let credentials = GitCredentials {
        username: Some("user".into()),
        password: Some("pass".into()),
        ..GitCredentials::default()
    };
    let mut wanted = git_context(&web, "r");
    assert!(fetch(&ContextLocation::Git(wanted.clone())).is_err(), "nobody may enter");
    wanted.submodules = Submodules::Leave;
    let location = ContextLocation::Git(wanted.clone());
    let (context, _root) = fetch_with(&location, credentials.clone()).expect("opened");
    assert_eq!(read(&context, "f"), "own\n");
    wanted.submodules = Submodules::Fetch;
    let denied = fetch_with(&ContextLocation::Git(wanted), credentials);
    let error = denied.expect_err("the other server is not told").to_string();
    assert!(!error.contains("pass"), "{error}");
    assert!(stranger.requests().iter().all(|request| request.header("authorization").is_none()));
    // Credentials of the URL work, and are not shown.
    let mut url = git_context(&web, "r");
    url.submodules = Submodules::Leave;
    url.repository = url.repository.replace("http://", "http://user:pass@");
    fetch(&ContextLocation::Git(url.clone())).expect("opened");
    url.reference = Some("nobody".into());
    let error = fetch(&ContextLocation::Git(url)).expect_err("no such ref").to_string();
    assert!(!error.contains("pass"), "{error}");
}

fn added_repositories_elsewhere_are_not_told_the_credentials_of_the_context() {
    let machine = Machine::new();
    let root = tempfile::tempdir().expect("a directory");
    repository(root.path(), "r", "sha1", "echo own > f; git add .; git commit -q -m 1");
    // user:pass
    let web = Web::git(root.path(), |auth| auth == Some("Basic dXNlcjpwYXNz"));
    let stranger = Web::git(root.path(), |auth| auth.is_some());
    let credentials = GitCredentials {
        username: Some("user".into()),
        password: Some("pass".into()),
        ..GitCredentials::default()
    };
    let credentials = credentials.bound_to(&web.url("/context.git"));
    let context = machine.root.path().join("empty");
    std::fs::create_dir_all(&context).expect("a directory");
    let build = |web: &Web| {
        let text = format!("FROM scratch\nADD {} /src\n", web.url("/r.git"));
        let git = credentials.clone();
        machine.build_with(Mode::None, &text, &context, |_, request| request.git = git)
    };
    assert!(build(&stranger).is_err());
    let asked = stranger.requests();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|request| request.header("authorization").is_none()));
    let location = ContextLocation::Git(git_context(&stranger, "r"));
    assert!(fetch_with(&location, credentials.clone()).is_err(), "nor is a named context");
    assert!(build(&web).is_ok());
}

fn links_of_a_repository_do_not_lead_out_of_it() {
    let root = tempfile::tempdir().expect("a directory");
    repository(root.path(), "r", "sha1", "ln -s /etc out; git add .; git commit -q -m 1");
    let web = Web::git(root.path(), |_| true);
    let mut wanted = git_context(&web, "r");
    for below in ["out", "../..", "missing"] {
        wanted.subdirectory = Some(below.to_owned());
        assert!(fetch(&ContextLocation::Git(wanted.clone())).is_err(), "{below}");
    }
}

fn build(machine: &Machine, text: &str) -> BuildOutcome {
    let context = machine.root.path().join("empty");
    std::fs::create_dir_all(&context).expect("a directory");
    machine.build(Mode::None, text, &context).unwrap_or_else(|error| {
        panic!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string))
    })
}

fn an_unchanged_url_is_not_fetched_again() {
    let machine = Machine::new();
    let content = std::sync::Arc::new(Mutex::new("one".to_owned()));
    let served = std::sync::Arc::clone(&content);
    let web = Web::new(move |request| {
        let content = served.lock().expect("content").clone();
        let etag = format!("\"{content}\"");
        if request.header("if-none-match") == Some(&etag) {
            return Response::new(304, "");
        }
        Response::new(200, content)
            .with("ETag", &etag)
            .with("Last-Modified", "Thu, 02 Jan 2020 03:04:05 GMT")
    });
    let text = format!("FROM scratch\nADD {} /dir/\n", web.url("/a/file?token=hunter2"));
    let first = build(&machine, &text);
    assert_eq!(first.steps_executed, 1);
    assert!(web.requests().iter().all(|request| request.header("if-none-match").is_none()));
    let second = build(&machine, &text);
    assert_eq!((second.steps_executed, second.steps_cached), (0, 1));
    let asked = web.requests();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].header("if-none-match"), Some("\"one\""));
    assert_eq!(asked[0].header("if-modified-since"), Some("Thu, 02 Jan 2020 03:04:05 GMT"));
    // The same file for another step is fetched although it is unchanged.
    let other = build(&machine, &text.replace("/dir/", "/other/"));
    assert_eq!(other.steps_executed, 1);
    let unpacked = machine.unpack(&other, "other");
    assert_eq!(std::fs::read_to_string(unpacked.join("other/file")).expect("added"), "one");
    *content.lock().expect("content") = "two".to_owned();
    let changed = build(&machine, &text);
    assert_eq!(changed.steps_executed, 1);
    let unpacked = machine.unpack(&changed, "changed");
    assert_eq!(std::fs::read_to_string(unpacked.join("dir/file")).expect("added"), "two");
}

fn a_checksum_is_enough_for_a_hit() {
    let machine = Machine::new();
    let is_up = std::sync::Arc::new(AtomicBool::new(true));
    let up = std::sync::Arc::clone(&is_up);
    let web = Web::new(move |_| match up.load(Ordering::SeqCst) {
        true => Response::new(200, "content"),
        false => Response::new(500, ""),
    });
    let checksum = Digest::of(b"content");
    let text = format!("FROM scratch\nADD --checksum={checksum} {} /\n", web.url("/file"));
    assert_eq!(build(&machine, &text).steps_executed, 1);
    web.requests();
    is_up.store(false, Ordering::SeqCst);
    assert_eq!(build(&machine, &text).steps_cached, 1);
    assert!(web.requests().is_empty(), "nobody was asked");
    is_up.store(true, Ordering::SeqCst);
    let wrong = text.replace(&checksum.to_string(), &Digest::of(b"other").to_string());
    let context = machine.root.path().join("empty");
    let error = machine.build(Mode::None, &wrong, &context).expect_err("another content");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(cause.contains("digest mismatch"), "{cause}");
}

fn added_files(machine: &Machine, outcome: &BuildOutcome, name: &str) -> Vec<(PathBuf, u32)> {
    use std::os::unix::fs::PermissionsExt as _;
    let root = machine.unpack(outcome, name);
    let mut found = Vec::new();
    let mut waiting = vec![root.clone()];
    while let Some(directory) = waiting.pop() {
        for item in std::fs::read_dir(&directory).expect("a directory") {
            let item = item.expect("an entry");
            let metadata = item.metadata().expect("metadata");
            if metadata.is_dir() {
                if item.file_name() == ".git" {
                    found.push((PathBuf::from(".git"), 0));
                } else {
                    waiting.push(item.path());
                }
                continue;
            }
            let path = item.path().strip_prefix(&root).expect("below").to_owned();
            found.push((path, metadata.permissions().mode() & 0o7777));
        }
    }
    found.sort();
    found
}

fn added_repositories(format: &str) {
    let machine = Machine::new();
    let root = tempfile::tempdir().expect("a directory");
    let work = repository(root.path(), "r", format, HISTORY);
    let web = Web::git(root.path(), |_| true);
    let url = web.url("/r.git");
    let path = PathBuf::from;
    let outcome = build(&machine, &format!("FROM scratch\nADD {url}#v1 /src\n"));
    assert_eq!(
        added_files(&machine, &outcome, "tag"),
        [(path("src/f"), 0o644), (path("src/run.sh"), 0o755), (path("src/sub/g"), 0o644)]
    );
    let outcome = build(&machine, &format!("FROM scratch\nADD {url}#main:sub /src\n"));
    assert_eq!(added_files(&machine, &outcome, "sub"), [(path("src/g"), 0o644)]);
    let text = format!("FROM scratch\nADD --keep-git-dir=true --chown=3:4 {url}#dev /src\n");
    let outcome = build(&machine, &text);
    assert!(added_files(&machine, &outcome, "kept").contains(&(path(".git"), 0)));
    let metadata = std::fs::metadata(machine.root.path().join("kept/src/f")).expect("added");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&metadata), 3);
    // A branch that moved is a miss, one that did not is a hit.
    let text = format!("FROM scratch\nADD {url}#main /src\n");
    assert_eq!(build(&machine, &text).steps_executed, 1);
    assert_eq!(build(&machine, &text).steps_executed, 0);
    let commit = "echo moved > f; git -c user.name=a -c user.email=a@example.com commit -q -a -m 4";
    let moved = std::process::Command::new("sh").current_dir(&work).args(["-c", commit]).status();
    assert!(moved.expect("sh").success());
    git(&work, &["push", "-q", "../r.git", "main"]);
    assert_eq!(build(&machine, &text).steps_executed, 1);
}

fn added_repositories_follow_ref_directory_and_flags() {
    added_repositories("sha1");
}

fn added_repositories_with_sha256_work_alike() {
    added_repositories("sha256");
}

fn a_full_commit_is_a_hit_without_the_server() {
    let machine = Machine::new();
    let root = tempfile::tempdir().expect("a directory");
    let work = repository(root.path(), "r", "sha1", HISTORY);
    let web = Web::git(root.path(), |_| true);
    let url = web.url("/r.git");
    let commit = git(&work, &["rev-parse", "v1^{}"]);
    let text = format!("FROM scratch\nADD --checksum={commit} {url}#v1 /src\n");
    assert_eq!(build(&machine, &text).steps_executed, 1);
    assert!(!web.requests().is_empty());
    assert_eq!(build(&machine, &text).steps_cached, 1);
    assert!(web.requests().is_empty(), "nobody was asked");
    let context = machine.root.path().join("empty");
    let wrong = text.replace("#v1", "#dev").replace(&commit, &"ab".repeat(20));
    let error = machine.build(Mode::None, &wrong, &context);
    assert!(error.is_err());
    let short = text.replace(&commit, &commit[..8]);
    build(&machine, &short);
}

fn queries_choose_what_is_added() {
    let machine = Machine::new();
    let root = tempfile::tempdir().expect("a directory");
    let work = repository(root.path(), "r", "sha1", HISTORY);
    let first = git(&work, &["rev-parse", "v1^{}"]);
    let web = Web::git(root.path(), |_| true);
    let url = web.url("/r.git");
    let content = |query: &str, file: &str| {
        let outcome = build(&machine, &format!("FROM scratch\nADD {url}?{query} /src\n"));
        let name = query.replace(['=', '&', '/'], "-");
        let unpacked = machine.unpack(&outcome, &name);
        std::fs::read_to_string(unpacked.join("src").join(file)).expect(query)
    };
    assert_eq!(content("ref=dev", "f"), "dev\n");
    assert_eq!(content("branch=dev", "f"), "dev\n");
    assert_eq!(content("tag=v1", "f"), "first\n");
    assert_eq!(content("subdir=sub", "g"), "below\n");
    assert_eq!(content(&format!("commit={first}"), "f"), "first\n");
    assert_eq!(content("tag=v1&subdir=sub&mtime=commit", "g"), "below\n");
    let file = machine.root.path().join("tag-v1-subdir-sub-mtime-commit/src/g");
    let metadata = std::fs::metadata(file).expect("added");
    assert_eq!(std::os::unix::fs::MetadataExt::mtime(&metadata), 1_577_934_245);
    let context = machine.root.path().join("empty");
    for query in ["ref=dev&branch=main", "what=1", "tag=v1#dev"] {
        let text = format!("FROM scratch\nADD {url}?{query} /src\n");
        assert!(machine.build(Mode::None, &text, &context).is_err(), "{query}");
    }
    let secrets = |token: &str| {
        let value = SecretSource::Value(SecretBytes::new(token));
        image_builder::Secrets::from([("GIT_AUTH_TOKEN".to_owned(), value)])
    };
    // x-access-token:token
    let private = Web::git(root.path(), |auth| auth == Some("Basic eC1hY2Nlc3MtdG9rZW46dG9rZW4="));
    let text = format!("FROM scratch\nADD {} /src\n", private.url("/r.git"));
    let try_with = |token: &str| {
        let secrets = secrets(token);
        let context = context.clone();
        machine.build_with(Mode::None, &text, &context, |_, request| request.secrets = secrets)
    };
    assert!(try_with("other").is_err());
    assert!(try_with("token").is_ok());
}

fn named(
    machine: &Machine,
    text: &str,
    contexts: &[(&str, NamedContext)],
) -> Result<BuildOutcome, image_builder::BuildError> {
    let context = machine.root.path().join("empty");
    std::fs::create_dir_all(&context).expect("a directory");
    machine.build_with(Mode::None, text, &context, |options, request| {
        for (name, context) in contexts {
            options.named_contexts.insert((*name).to_owned());
            request.named_contexts.insert((*name).to_owned(), context.clone());
        }
    })
}

fn files_of(machine: &Machine, outcome: &BuildOutcome, name: &str) -> Vec<String> {
    let root = machine.unpack(outcome, name);
    let listing = std::fs::read_dir(root).expect("a directory").flatten();
    let mut names: Vec<String> =
        listing.map(|item| item.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn local(root: &Path, ignore: &str) -> NamedContext {
    let ignore = dockerfile::IgnoreFile::parse(ignore).expect("an ignore file of the test");
    NamedContext::Directory(ContextDirectory { root: root.to_owned(), ignore })
}

fn named_directories_have_their_own_ignore_file() {
    let machine = Machine::new();
    let other = tempfile::tempdir().expect("a directory");
    for name in ["keep", "drop"] {
        std::fs::write(other.path().join(name), name).expect("a file");
    }
    let context = local(other.path(), "drop\n");
    let contexts = [("other", context)];
    for (at, text) in
        ["FROM scratch\nCOPY --from=other . /\n", "FROM other\n", "FROM other AS x\nFROM x\n"]
            .into_iter()
            .enumerate()
    {
        let outcome = named(&machine, text, &contexts).expect(text);
        assert_eq!(files_of(&machine, &outcome, &format!("out{at}")), ["keep"], "{text}");
    }
}

fn named_images_replace_bases_stages_and_sources() {
    let machine = Machine::new();
    let outcome = build(&machine, "FROM scratch\nADD --chmod=644 <<f /own\nx\nf\nLABEL own=1\n");
    machine.keep(&outcome, "own");
    let contexts = [("other", NamedContext::Image(crate::fixture::reference("own")))];
    let replaced = named(&machine, "FROM other\nLABEL b=2\n", &contexts).expect("an image");
    assert_eq!(replaced.image.config.labels.len(), 2);
    let layers = |outcome: &BuildOutcome| match outcome.manifest.parsed() {
        oci_model::Manifest::Image(image) => image.layers.clone(),
        oci_model::Manifest::Index(_) => Vec::new(),
    };
    assert_eq!(layers(&replaced), layers(&outcome), "they are what they were");
    let copied = named(&machine, "FROM scratch\nCOPY --from=other /own /\n", &contexts);
    assert_eq!(files_of(&machine, &copied.expect("an image"), "copied"), ["own"]);
}

fn layouts_are_bases_by_tag_and_digest() {
    let machine = Machine::new();
    let outcome = build(&machine, "FROM scratch\nADD --chmod=644 <<f /own\nx\nf\nLABEL own=1\n");
    let directory = machine.root.path().join("layout");
    machine.write(&outcome, &image_builder::Output::OciDirectory(directory.clone()), "own:v1");
    let layout = |name: Option<&str>| NamedContext::Layout {
        directory: directory.clone(),
        name: name.map(str::to_owned),
    };
    let digest = outcome.manifest.digest().to_string();
    for (at, name) in [None, Some(digest.as_str())].into_iter().enumerate() {
        let contexts = [("other", layout(name))];
        let text = "FROM other\nCOPY --from=other /own /copy\n";
        let built = named(&machine, text, &contexts).expect("an image");
        assert_eq!(files_of(&machine, &built, &format!("layout{at}")), ["copy", "own"]);
    }
    let contexts = [("other", layout(Some("nobody")))];
    let error = named(&machine, "FROM other\n", &contexts).expect_err("no such tag");
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(format!("{error}: {cause}").contains("nobody"), "{error}: {cause}");
    assert!(!error.to_string().contains("invalid"), "{error}");
}

fn contexts_elsewhere_are_fetched_when_they_are_needed() {
    let machine = Machine::new();
    let root = tempfile::tempdir().expect("a directory");
    repository(root.path(), "r", "sha1", HISTORY);
    let repositories = Web::git(root.path(), |_| true);
    let mut reference = git_context(&repositories, "r");
    (reference.depth, reference.git_directory) = (1, Some(false));
    let web = Web::new(|request| match request.path() {
        "/archive" => Response::new(200, archive("--gzip")),
        _ => Response::new(200, "just a file"),
    });
    let contexts = [
        ("repository", NamedContext::Remote(ContextLocation::Git(reference))),
        ("archive", NamedContext::Remote(ContextLocation::Url(web.url("/archive")))),
        ("file", NamedContext::Remote(ContextLocation::Url(web.url("/dir/name.txt?x=1")))),
        ("nowhere", NamedContext::Remote(ContextLocation::Url("http://127.0.0.1:1/".to_owned()))),
        ("lost", NamedContext::Layout { directory: "/nowhere/at/all".into(), name: None }),
    ];
    let text = "FROM nowhere AS unused\nFROM scratch\nCOPY --from=archive /src/a /a\n\
        COPY --from=archive /src /b/\nCOPY --from=file /name.txt /\n";
    let outcome = named(&machine, text, &contexts).expect("an image");
    assert_eq!(files_of(&machine, &outcome, "elsewhere"), ["a", "b", "name.txt"]);
    assert_eq!(web.requests().len(), 2, "each once");
    assert!(repositories.requests().is_empty(), "nobody needs it");
    let outcome = named(&machine, "FROM repository\n", &contexts).expect("an image");
    assert_eq!(files_of(&machine, &outcome, "repository"), ["f", "run.sh", "sub"]);
    assert!(named(&machine, "FROM nowhere\n", &contexts).is_err());
}
