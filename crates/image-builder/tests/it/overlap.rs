//! What a build does at the same time.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use container_runtime::Mode;
use image_builder::Output;
use oci_model::Digest;

use crate::fixture::Machine;
use crate::tests;

tests![a_layer_is_unpacked_while_it_is_downloaded];

/// Longer than any machine needs to write one file.
const PATIENCE: Duration = Duration::from_secs(60);

fn a_layer_is_unpacked_while_it_is_downloaded() {
    let machine = Machine::new();
    let layout = layout_with_noise(&machine);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let staging = machine.root.path().join("state/layers/staging");
    // The end of the big layer is sent only when its first file stands in the staged tree.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (layout, staging) = (layout.clone(), staging.clone());
            let stream = stream.expect("a connection");
            std::thread::spawn(move || serve(&stream, &layout, &staging));
        }
    });
    let context = machine.root.path().join("empty");
    std::fs::create_dir_all(&context).expect("a directory");
    let text = format!("FROM {address}/noise:1\nRUN test -s /noise/0 && test -s /noise/3\n");
    machine.build(Mode::Overlay, &text, &context).expect("both files are there");
}

/// An image of the base and four incompressible files of 1 MiB, as an OCI layout.
fn layout_with_noise(machine: &Machine) -> PathBuf {
    let context = machine.root.path().join("noise-context");
    std::fs::create_dir_all(context.join("noise")).expect("a directory");
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for name in 0..4 {
        let mut noise = vec![0; 1 << 20];
        for byte in &mut noise {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state.to_le_bytes()[3];
        }
        std::fs::write(context.join(format!("noise/{name}")), noise).expect("a file");
    }
    let image = machine.build(Mode::None, "FROM base\nCOPY noise /noise\n", &context);
    let layout = machine.root.path().join("layout");
    machine.write(&image.expect("an image"), &Output::OciDirectory(layout.clone()), "noise:1");
    layout
}

/// A registry of one image: manifests and blobs are files of the layout.
fn serve(stream: &TcpStream, layout: &Path, staging: &Path) {
    let mut lines = BufReader::new(stream);
    loop {
        let mut request = String::new();
        match lines.read_line(&mut request) {
            Ok(0) => return,
            Ok(_) => {}
            // The client tries TLS first.
            Err(_) => {
                let mut out = stream;
                return out.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("a peer");
            }
        }
        let mut header = String::new();
        while lines.read_line(&mut header).is_ok_and(|read| 2 < read) {
            header.clear();
        }
        let path = request.split(' ').nth(1).expect("a target").to_owned();
        let (name, media_type) = match path.split_once("/manifests/") {
            Some((_, "1")) => (manifest_of(layout), "application/vnd.oci.image.manifest.v1+json"),
            Some((_, digest)) => (digest.to_owned(), "application/vnd.oci.image.manifest.v1+json"),
            None => {
                (path.rsplit('/').next().expect("a name").to_owned(), "application/octet-stream")
            }
        };
        let blob = layout.join("blobs").join(name.replace(':', "/"));
        let mut bytes = Vec::new();
        let found = std::fs::File::open(&blob).and_then(|mut file| file.read_to_end(&mut bytes));
        let head = if found.is_ok() && path != "/v2/" {
            format!(
                "200 OK\r\nContent-Type: {media_type}\r\nDocker-Content-Digest: {}",
                Digest::of(&bytes)
            )
        } else {
            bytes.clear();
            "200 OK".to_owned()
        };
        let head = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", bytes.len());
        let mut out = stream;
        out.write_all(head.as_bytes()).expect("a peer");
        if request.starts_with("HEAD") {
            continue;
        }
        if 1 << 20 < bytes.len() {
            let (first, rest) = bytes.split_at(bytes.len() / 2);
            out.write_all(first).expect("a peer");
            wait_for_file(staging);
            out.write_all(rest).expect("a peer");
        } else {
            out.write_all(&bytes).expect("a peer");
        }
    }
}

fn manifest_of(layout: &Path) -> String {
    let index = std::fs::read(layout.join("index.json")).expect("a layout");
    let index: serde_json::Value = serde_json::from_slice(&index).expect("JSON");
    index["manifests"][0]["digest"].as_str().expect("a digest").to_owned()
}

/// Returns when an unpacked file of the noise exists; panics if it never does.
fn wait_for_file(staging: &Path) {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let trees = std::fs::read_dir(staging).into_iter().flatten().flatten();
        for tree in trees {
            if tree.path().join("fs/noise/0").exists() {
                return;
            }
        }
        std::thread::yield_now();
    }
    panic!("nothing was unpacked while half of the layer was missing");
}
