//! A disk that fills up: first to the reserve, then to the last byte.

use std::io::Write as _;

use super::http::{Image, send};
use super::server::{Disk, Server, registry};

#[test]
fn a_full_disk_refuses_uploads_and_nothing_else() {
    let disk = Disk::memory(64);
    let state = disk.path().join("state");
    let server = Server::start(&state, &[]);
    let address = server.address.clone();
    let mut images = Vec::new();
    let refused = loop {
        let image = Image::new("team/app", &format!("v{}", images.len()), 4 << 20);
        match image.put_blob(&address, &image.layer).expect("an answer") {
            reply if reply.status == 507 => break reply,
            reply => assert_eq!(reply.status, 201, "{}", reply.text()),
        }
        assert_eq!(image.put_blob(&address, &image.config).map(|r| r.status), Some(201));
        assert_eq!(image.put_manifest(&address).map(|r| r.status), Some(201));
        images.push(image);
    };
    assert!(refused.text().contains("no space left on the disk"), "{}", refused.text());
    assert!(images.len() > 8, "only {} images fitted", images.len());
    // In every form of upload.
    let late = Image::new("team/app", "late", 4 << 20);
    let begun = send(&address, "POST", "/v2/team/app/blobs/uploads/", &[], b"").expect("an answer");
    let location = begun.header("location").unwrap_or_default().to_owned();
    let status = match begun.status {
        202 => send(&address, "PATCH", &location, &[], &late.layer).expect("an answer").status,
        status => status,
    };
    assert_eq!(status, 507);
    // Metadata works: a tag moves, a tag goes, listings and pulls.
    let moved = Image { tag: "moved".to_owned(), ..images[0].clone() };
    assert_eq!(moved.put_manifest(&address).map(|r| r.status), Some(201));
    let delete = |path: &str| send(&address, "DELETE", path, &[], b"").map(|reply| reply.status);
    assert_eq!(delete(&moved.manifest_path()), Some(202));
    images[1].verify(&address);
    // A delete and a collection make room beside the running registry.
    for image in images.split_off(images.len() - 3) {
        assert_eq!(delete(&image.digest_path()), Some(202));
    }
    // Until the trash goes what was deleted could still be wanted back.
    registry(&state, &["trash", "empty", "--all", "--registry", &address]).ok();
    let report = registry(&state, &["gc", "--delay", "0"]).ok();
    assert!(report.contains("removed: 6 blobs"), "{report}");
    assert_eq!(late.push(&address).map(|r| r.status), Some(201));
    images.push(late);

    // Somebody else takes the rest, to the last byte.
    let foreign = disk.path().join("foreign");
    let mut file = std::fs::File::create(&foreign).expect("a file");
    while file.write_all(&[1; 4096]).is_ok() {}
    let mut told = Vec::new();
    for number in 0..5 {
        let image = Image { tag: format!("full{number}"), ..images[0].clone() };
        let reply = image.put_manifest(&address).expect("an answer");
        assert!(matches!(reply.status, 201 | 507), "{} {}", reply.status, reply.text());
        if reply.status == 201 {
            told.push(image);
        }
    }
    images[2].verify(&address);
    drop(file);
    std::fs::remove_file(&foreign).expect("space again");
    // The same registry goes on, and so does the next.
    let after = Image::new("team/app", "after", 10_000);
    assert_eq!(after.push(&address).map(|r| r.status), Some(201));
    images.push(after);
    server.kill();
    let server = Server::start(&state, &[]);
    for image in images.iter().chain(&told) {
        image.verify(&server.address);
    }
    assert_eq!(Image::new("b", "v1", 10_000).push(&server.address).map(|r| r.status), Some(201));
    server.stop();
}
