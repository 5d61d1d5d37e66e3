use super::*;

const GIB: u64 = 1 << 30;

fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

fn policy() -> CollectionPolicy {
    let policy = CollectionPolicy::new(&CollectionSettings::default()).expect("defaults");
    assert_eq!(policy, CollectionPolicy::default());
    policy
}

fn unused(last_used: Option<u64>, detected: u64) -> Candidate {
    let last_used = last_used.map(minutes);
    Candidate { last_used, detected: minutes(detected), in_use: false, pinned: false }
}

/// kubelet-images.md 15.10, row G1.
#[test]
fn high_threshold_frees_down_to_the_low_one() {
    let need = |available, capacity| {
        policy().need(Disk { capacity_bytes: capacity, available_bytes: available })
    };
    assert_eq!(need(10 * GIB, 100 * GIB), Need::Free { bytes: 10 * GIB });
    assert_eq!(need(15 * GIB, 100 * GIB), Need::Free { bytes: 5 * GIB });
    assert_eq!(need(16 * GIB, 100 * GIB), Need::Nothing);
    // Integer arithmetic: 15.9 % free count as 15.
    assert_eq!(need(1590, 10_000), Need::Free { bytes: 410 });
    assert_eq!(need(200 * GIB, 100 * GIB), Need::Nothing);
    assert_eq!(need(0, 0), Need::InvalidCapacity);
    assert_eq!(need(0, u64::MAX), Need::Free { bytes: u64::MAX / 5 });
}

/// kubelet-images.md 15.10, row G2, and the texts of section 10.
#[test]
fn settings_are_refused_in_the_kubelets_words() {
    let high = "imageGCHighThresholdPercent (--image-gc-high-threshold)";
    let low = "imageGCLowThresholdPercent (--image-gc-low-threshold)";
    let check = |high_percent, low_percent, minimum: u64, maximum: u64| {
        let settings = CollectionSettings {
            high_percent,
            low_percent,
            minimum_age: minutes(minimum),
            maximum_age: minutes(maximum),
        };
        CollectionPolicy::new(&settings).map_err(|InvalidSettings(texts)| texts).err()
    };
    assert_eq!(check(85, 80, 2, 0), None);
    assert_eq!(check(100, 0, 2, 3), None);
    for (high_percent, low_percent, minimum, maximum, expected) in [
        (85, 85, 2, 0, vec![format!("{low} 85 must be less than {high} 85")]),
        (101, 80, 2, 0, vec![format!("{high} 101 must be between 0 and 100, inclusive")]),
        (
            -1,
            -2,
            2,
            0,
            vec![
                format!("{high} -1 must be between 0 and 100, inclusive"),
                format!("{low} -2 must be between 0 and 100, inclusive"),
            ],
        ),
        (
            85,
            80,
            2,
            2,
            vec!["imageMaximumGCAge 2m0s must be greater than imageMinimumGCAge 2m0s".to_owned()],
        ),
    ] {
        let expected: Vec<String> =
            expected.iter().map(|text| format!("invalid configuration: {text}")).collect();
        assert_eq!(check(high_percent, low_percent, minimum, maximum), Some(expected));
    }
}

#[test]
fn ages_are_read_as_go_reads_them() {
    for (text, seconds) in [("2m", 120), ("0", 0), ("0s", 0), ("1h30m", 5400), ("1.5m", 90)] {
        assert_eq!(age("f", text), Ok(Duration::from_secs(seconds)), "{text}");
    }
    for text in ["", "2", "m", "2x", "2m3", "-", "1..5s"] {
        let error = age("f", text).expect_err(text);
        assert_eq!(error.to_string(), format!("time: invalid duration {text:?}"));
    }
    assert_eq!(
        age("imageMinimumGCAge", "-2m").expect_err("negative").to_string(),
        "invalid configuration: imageMinimumGCAge -2m0s must not be negative"
    );
}

/// kubelet-images.md 15.10, rows G3, G4 and G5.
#[test]
fn least_recently_used_goes_first_and_some_never() {
    let order = |images: &[Candidate]| policy().in_eviction_order(images, minutes(60));
    assert_eq!(order(&[unused(Some(3), 0), unused(Some(1), 0), unused(Some(2), 0)]), [1, 2, 0]);
    assert_eq!(order(&[unused(Some(1), 0), unused(None, 9)]), [1, 0], "never used");
    assert_eq!(order(&[unused(None, 9), unused(None, 8)]), [1, 0], "first detected");
    let pinned = Candidate { pinned: true, ..unused(Some(1), 0) };
    let exited = Candidate { in_use: true, ..unused(Some(1), 0) };
    assert_eq!(order(&[pinned, exited]), [0; 0]);
    assert_eq!(order(&[unused(None, 59), unused(None, 58)]), [1], "a minute and two");
    assert_eq!(order(&[unused(Some(60), 0), unused(Some(61), 0)]), [0; 0], "used at this moment");
}

/// kubelet-images.md 15.10, row G6.
#[test]
fn maximum_age_counts_only_when_the_node_is_up_for_longer() {
    let settings = CollectionSettings { maximum_age: minutes(60), ..CollectionSettings::default() };
    let aged = CollectionPolicy::new(&settings).expect("a policy");
    let images = [
        unused(Some(10), 0),
        unused(Some(100), 0),
        unused(None, 119),
        Candidate { pinned: true, ..unused(None, 0) },
        Candidate { in_use: true, ..unused(Some(1), 0) },
    ];
    assert_eq!(aged.too_old(&images, minutes(120), minutes(90)), [0; 0]);
    assert_eq!(aged.too_old(&images, minutes(120), minutes(60)), [0; 0], "exactly so long");
    assert_eq!(aged.too_old(&images, minutes(120), minutes(0)), [0, 2]);
    assert_eq!(policy().too_old(&images, minutes(120), minutes(0)), [0; 0]);
}

#[test]
fn threshold_of_a_hundred_and_no_age_turn_collection_off() {
    let off = |high_percent, maximum_age| {
        let settings =
            CollectionSettings { high_percent, maximum_age, ..CollectionSettings::default() };
        CollectionPolicy::new(&settings).expect("a policy").is_off()
    };
    assert!(off(100, Duration::ZERO));
    assert!(!off(100, minutes(9)) && !off(85, Duration::ZERO));
}

#[test]
fn pressure_is_a_share_or_an_amount() {
    let disk = Disk { capacity_bytes: 100 * GIB, available_bytes: 5 * GIB };
    for (text, expected) in [
        ("imagefs.available<5%", false),
        ("imagefs.available<6%", true),
        ("imagefs.available<0%", false),
        ("imagefs.available<5Gi", false),
        ("imagefs.available<6144Mi", true),
        ("imagefs.available<1024", false),
    ] {
        let threshold = PressureThreshold::parse(text).expect(text);
        assert_eq!(threshold.is_crossed(disk), expected, "{text}");
    }
    for text in ["", "5%", "memory.available<5%", "imagefs.available<101%", "imagefs.available<1X"]
    {
        assert!(PressureThreshold::parse(text).is_err(), "{text}");
    }
}

#[test]
fn limit_of_reported_images_is_checked() {
    assert_eq!(status_images_max(-1), Ok(None));
    assert_eq!(status_images_max(50), Ok(Some(50)));
    assert_eq!(
        status_images_max(-2),
        Err("invalid configuration: nodeStatusMaxImages (--node-status-max-images) -2 must be -1 or greater".to_owned())
    );
}

#[test]
fn shortfall_is_told_in_the_kubelets_words() {
    let disk = Disk { capacity_bytes: 99_966_000_000, available_bytes: 9_000_000_000 };
    assert_eq!(
        free_disk_space_failed(disk, 42),
        "Insufficient free disk space on the node's image filesystem (91% of 93.1 GiB used). Failed to free sufficient space by deleting unused images (freed 42 bytes). Investigate disk usage, as it could be used by active images, logs, volumes, or other data."
    );
    assert_eq!(invalid_disk_capacity(0), "invalid capacity 0 on image filesystem");
    assert_eq!((binary_size(100), binary_size(64 << 20)), ("100 B".into(), "64.0 MiB".into()));
}
