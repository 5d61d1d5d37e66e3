//! kaniko's environment: what it chooses here, and what has nothing to choose any more.

/// Deprecated spellings of flags and what to write instead.
const RENAMED: [(&str, &str); 4] = [
    ("--snapshotMode", "--snapshot-mode"),
    ("--customPlatform", "--custom-platform"),
    ("--tarPath", "--tar-path"),
    ("--whitelist-var-run", "--ignore-var-run"),
];

/// Feature switches (`FF_KANIKO_…`) that are on by default in kaniko and always on here.
const ALWAYS_ON: [&str; 12] = [
    "BUILDKIT_ARG_ENV_PRECEDENCE",
    "CLEAN_KANIKO_DIR",
    "DEPRECATE_INTER_STAGE_RESTORE",
    "NO_PROPAGATE_ANNOTATIONS",
    "OCI_WARMER",
    "PRESERVE_HARDLINKS",
    "RELATIVE_LINK_TARGETS",
    "PRESERVE_MOUNTED_PATHS",
    "RUN_MOUNT_BIND",
    "SECUREJOIN_EXTRACTION",
    "VOLUME_SKIP_MKDIR",
    "WARMER_CACHE_LOCK",
];

/// Variables that are accepted and change nothing, and why.
const WITHOUT_EFFECT: [(&str, &str); 6] = [
    ("SNAPSHOT_TIMEOUT_DURATION", "finding changes takes no time worth a limit"),
    ("STACKLOG_PATH", "there are no goroutines to write down; --verbosity=trace logs what happens"),
    ("KANIKO_IGNORE_ASSERTIONS", "there are no assertions to ignore"),
    ("KANIKO_PRINT_PLAN", "--dryrun prints the plan"),
    ("KANIKO_TELEMETRY_ENDPOINT", "nothing is sent"),
    ("KANIKO_TELEMETRY_OMIT_DOCKERFILE", "nothing is sent"),
];

/// One warning for each spelling and each variable that asks for what is not here.
pub(super) fn warnings(
    arguments: impl Iterator<Item = String>,
    variable: impl Fn(&str) -> Option<String>,
) -> Vec<String> {
    let mut warnings = Vec::new();
    for argument in arguments {
        let name = argument.split('=').next().unwrap_or_default();
        if let Some((old, new)) = RENAMED.iter().find(|(old, _)| *old == name) {
            warnings.push(format!("flag {old} is deprecated, use {new} instead"));
        }
    }
    for (name, reason) in WITHOUT_EFFECT {
        if variable(name).is_some_and(|value| !value.is_empty()) {
            warnings.push(format!("{name} has no effect: {reason}"));
        }
    }
    for name in ALWAYS_ON {
        let name = format!("FF_KANIKO_{name}");
        if variable(&name).is_some_and(|value| matches!(value.as_str(), "0" | "false" | "f")) {
            warnings.push(format!("{name} cannot be switched off here"));
        }
    }
    warnings
}

/// `User-Agent` of requests to registries: `UPSTREAM_CLIENT_TYPE` follows the name.
pub(super) fn user_agent(own: &str, upstream: Option<&str>) -> String {
    match upstream.filter(|text| !text.is_empty() && text.chars().all(|c| !c.is_control())) {
        Some(upstream) => format!("{own},{upstream}"),
        None => own.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(arguments: &[&str], variables: &[(&str, &str)]) -> Vec<String> {
        let variable = |name: &str| {
            let mut variables = variables.iter();
            variables.find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        warnings(arguments.iter().map(|text| (*text).to_owned()), variable)
    }

    #[test]
    fn old_spellings_are_named_with_the_new_ones() {
        for (old, new) in RENAMED {
            let given = format!("{old}=x");
            let text = format!("flag {old} is deprecated, use {new} instead");
            assert_eq!(of(&[&given], &[]), [text]);
            assert!(of(&[new], &[]).is_empty());
        }
    }

    #[test]
    fn switches_warn_only_if_they_are_to_bring_old_behaviour_back() {
        assert!(of(&[], &[("FF_KANIKO_RUN_VIA_TINI", "true")]).is_empty());
        assert!(of(&[], &[("FF_KANIKO_OCI_WARMER", "1")]).is_empty());
        assert_eq!(of(&[], &[("FF_KANIKO_OCI_WARMER", "false")]).len(), 1);
    }

    #[test]
    fn variables_without_effect_say_so_once() {
        for (name, _) in WITHOUT_EFFECT {
            assert_eq!(of(&[], &[(name, "x")]).len(), 1, "{name}");
        }
    }

    #[test]
    fn upstream_clients_are_named_to_registries() {
        assert_eq!(user_agent("shipway/1", Some("skaffold")), "shipway/1,skaffold");
        assert_eq!(user_agent("shipway/1", None), "shipway/1");
        assert_eq!(user_agent("shipway/1", Some("a\nb")), "shipway/1");
    }
}
