use proptest::prelude::*;

use super::*;

macro_rules! golden {
    ($($name:literal),* $(,)?) => {
        [$((
            $name,
            include_bytes!(concat!("../golden/", $name, ".pb")).as_slice(),
            include_str!(concat!("../golden/", $name, ".json")),
        )),*]
    };
}

// mini-kubernetes.md 14, rows 10 to 12. The `kubectl-` bodies were captured from kubectl 1.32, the
// others written by Go's encoder; the JSON beside them is what Go's decoder makes of the bytes.
#[test]
fn golden_bodies_decode_to_what_go_makes_of_them() {
    let rows = golden![
        "kubectl-can-i",
        "kubectl-configmap",
        "kubectl-cronjob",
        "kubectl-deployment",
        "kubectl-ingress",
        "kubectl-job",
        "kubectl-namespace",
        "kubectl-pdb",
        "kubectl-priorityclass",
        "kubectl-quota",
        "kubectl-role",
        "kubectl-secret-docker",
        "kubectl-secret-generic",
        "kubectl-service",
        "kubectl-serviceaccount",
        "kubectl-token",
        "kubectl-whoami",
        "claim",
        "delete-options",
        "event",
        "pod",
    ];
    for (name, body, expected) in rows {
        let expected: Value = serde_json::from_str(expected).expect(name);
        assert_eq!(decode(body), Ok(expected), "{name}");
    }
}

#[test]
fn body_without_envelope_or_of_an_unknown_kind_is_refused() {
    assert!(matches!(decode(b"{}"), Err(DecodeError::Malformed(_))));
    assert!(matches!(decode(b"k8s\0\x0a\xff"), Err(DecodeError::Malformed(_))));
    let unknown = b"k8s\0\x0a\x0f\x0a\x06x.y/v1\x12\x05Build\x12\x00";
    assert_eq!(
        decode(unknown),
        Err(DecodeError::UnknownKind {
            api_version: "x.y/v1".to_owned(),
            kind: "Build".to_owned()
        })
    );
}

proptest! {
    #[test]
    fn damaged_bodies_never_panic(at in 0_usize..600, byte in any::<u8>(), cut in 0_usize..700) {
        let mut body = include_bytes!("../golden/pod.pb").to_vec();
        let index = at % body.len();
        body[index] = byte;
        body.truncate(cut.max(1));
        let _ = decode(&body);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&[MAGIC, &bytes].concat());
        let mut pod = b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12".to_vec();
        pod.push(u8::try_from(bytes.len().min(127)).unwrap_or(0));
        pod.extend_from_slice(&bytes[..bytes.len().min(127)]);
        let _ = decode(&pod);
    }
}
