//! RUN --mount: every option, default and message of the reference.

use super::*;

fn resolve(text: &str) -> Result<Mount<()>, String> {
    let template = MountTemplate::parse(text).map_err(|error| error.to_string())?;
    let place = MountPlace { directory: "/w", ssh_index: 1 };
    template
        .resolve(place, (), &mut |value| Ok(value.replace("$v", "value")))
        .map_err(|error| error.to_string())
}

fn mount(text: &str) -> Mount<()> {
    resolve(text).expect(text)
}

#[test]
fn bind_is_the_default_and_read_only() {
    for text in ["target=/x", "dst=/x,ro", "type=bind,destination=/x,readonly=true"] {
        let Mount::Bind { source_path, target, access, .. } = mount(text) else { panic!("{text}") };
        assert_eq!((source_path.as_str(), target.as_str()), ("/", "/x"));
        assert_eq!(access, Access::ReadOnly, "{text}");
    }
    let Mount::Bind { source_path, target, access, .. } = mount("src=a/../b,target=x,rw") else {
        panic!("a bind")
    };
    assert_eq!((source_path.as_str(), target.as_str()), ("/b", "/w/x"));
    assert_eq!(access, Access::ReadWrite);
    assert_eq!(
        MountTemplate::parse("from=Stage,target=/x").expect("a mount").from(),
        Some("Stage")
    );
}

/// BuildKit CacheMountDefaultID, CacheMountUser; kaniko issue_969.
#[test]
fn caches_have_docker_defaults() {
    assert_eq!(
        mount("type=cache,target=/c//d/"),
        Mount::Cache {
            id: "/c/d".into(),
            target: "/c/d".into(),
            sharing: Sharing::Shared,
            access: Access::ReadWrite,
            seed: None,
            source_path: "/".into(),
            mode: 0o755,
            uid: 0,
            gid: 0,
        }
    );
    assert_eq!(
        mount("type=cache,id=i,dst=d,ro,sharing=LOCKED,from=s,source=/../q,mode=0700,uid=1,gid=2"),
        Mount::Cache {
            id: "i".into(),
            target: "/w/d".into(),
            sharing: Sharing::Locked,
            access: Access::ReadOnly,
            seed: Some(()),
            source_path: "/q".into(),
            mode: 0o700,
            uid: 1,
            gid: 2,
        }
    );
}

/// BuildKit MountTmpfsSize.
#[test]
fn tmpfs_sizes_have_binary_units() {
    for (size, bytes) in [
        ("100", 100_u64),
        ("1k", 1024),
        ("64m", 64 << 20),
        ("1.5GiB", 3 << 29),
        ("2GB", 2 << 30),
        ("7b", 7),
    ] {
        let text = format!("type=tmpfs,target=/t,size={size}");
        assert_eq!(mount(&text), Mount::Tmpfs { target: "/t".into(), bytes_max: Some(bytes) });
    }
    assert_eq!(
        mount("type=tmpfs,target=/t"),
        Mount::Tmpfs { target: "/t".into(), bytes_max: None }
    );
    assert_eq!(resolve("type=tmpfs,target=/t,size=big"), Err("invalid value for size: big".into()));
}

/// BuildKit SecretFileParams, SecretAsEnviron, SecretAsEnvironWithFileMount.
#[test]
fn secrets_are_files_variables_or_both() {
    let secret = |text: &str| match mount(text) {
        Mount::Secret { id, target, env, requirement, mode, uid, gid } => {
            (id, target, env, requirement == Requirement::Required, mode, (uid, gid))
        }
        other => panic!("{other:?}"),
    };
    let file = |path: &str| Some(path.to_owned());
    assert_eq!(
        secret("type=secret,id=s"),
        ("s".into(), file("/run/secrets/s"), None, false, 0o400, (0, 0))
    );
    assert_eq!(
        secret("type=secret,target=/a/b"),
        ("b".into(), file("/a/b"), None, false, 0o400, (0, 0))
    );
    assert_eq!(secret("type=secret,source=q,required").0, "q");
    assert_eq!(
        secret("type=secret,required=true,id=s,dst=rel,mode=0440,uid=1,gid=2"),
        ("s".into(), file("/w/rel"), None, true, 0o440, (1, 2))
    );
    assert_eq!(
        secret("type=secret,id=s,env=E"),
        ("s".into(), None, file("E"), false, 0o400, (0, 0))
    );
    assert_eq!(secret("type=secret,id=s,env=E,target=/t").1, file("/t"));
}

/// BuildKit SSHSocketParams.
#[test]
fn ssh_sockets_are_numbered() {
    assert_eq!(
        mount("type=ssh"),
        Mount::Ssh {
            id: "default".into(),
            target: "/run/buildkit/ssh_agent.1".into(),
            requirement: Requirement::Optional,
            mode: 0o600,
            uid: 0,
            gid: 0,
        }
    );
}

#[test]
fn quotes_group_commas() {
    let Mount::Bind { source_path, target, .. } = mount("\"src=a,b\",\"target=/x\"\"y\"") else {
        panic!("a bind")
    };
    assert_eq!((source_path.as_str(), target.as_str()), ("/a,b", "/x\"y"));
    assert!(resolve("\"target=/x").is_err());
    assert!(resolve("target=/\"x\"").is_err());
}

#[test]
fn values_are_expanded_but_never_from() {
    let Mount::Bind { target, .. } = mount("target=/$v") else { panic!("a bind") };
    assert_eq!(target, "/value");
    for text in ["from=$x,target=/x", "from=a${x},target=/x"] {
        assert_eq!(
            resolve(text),
            Err("'from' doesn't support variable expansion, define alias stage instead".into())
        );
    }
}

/// BuildKit MountInvalid, MountFromError.
#[test]
fn mistakes_have_the_known_texts() {
    for (text, message) in [
        ("type=tmp,target=/x", "unsupported mount type \"tmp\" (did you mean tmpfs?)"),
        ("typ=tmpfs,target=/x", "unexpected key 'typ' in 'typ=tmpfs' (did you mean type?)"),
        ("targett=/x", "unexpected key 'targett' in 'targett=/x' (did you mean target?)"),
        ("target", "invalid field 'target' must be a key=value pair"),
        ("target=/x,required", "unexpected key 'required' for mount type 'bind'"),
        ("target=/x,size=1", "unexpected key 'size' for mount type 'bind'"),
        ("target=/x,env=E", "unexpected key 'env' for mount type 'bind'"),
        ("target=/x,ro=maybe", "invalid value for ro: maybe"),
        (
            "type=cache,target=/x,sharing=shard",
            "unsupported sharing value \"shard\" (did you mean shared?)",
        ),
        ("type=cache,target=/x,mode=9", "invalid value 9 for mode"),
        ("type=cache,target=/x,uid=-1", "invalid value -1 for uid"),
        ("target=/x,mode=0700", "mode not allowed for \"bind\" type mounts"),
        ("type=tmpfs,target=/x,uid=1", "uid not allowed for \"tmpfs\" type mounts"),
        ("target=/x,sharing=locked", "invalid cache sharing set for bind mount"),
        ("type=secret,id=a,from=b", "secret mount should not have a from"),
        ("type=secret", "invalid secret mount. one of source, target required"),
        ("type=secret,id=a,source=b", "both source and id can't be set"),
        ("target=/", "invalid mount target \"/\""),
        ("type=tmpfs,target=/a/..", "invalid mount target \"/\""),
    ] {
        assert_eq!(resolve(text), Err(message.to_owned()), "{text}");
    }
}
