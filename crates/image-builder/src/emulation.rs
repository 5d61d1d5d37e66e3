//! Whether this machine runs programs of another processor: natively or through binfmt_misc.
//!
//! Linux, Documentation/admin-guide/binfmt-misc.rst. A handler serves a step only with flag `F`:
//! the interpreter was opened when it was registered, so that a root file system without it works.

use std::fs;
use std::path::Path;

use oci_model::Platform;

/// Where the kernel shows its handlers.
const BINFMT_MISC: &str = "/proc/sys/fs/binfmt_misc";
/// Largest handler description read, in bytes; real ones have a few hundred.
const HANDLER_BYTES_MAX: u64 = 4096;

/// Why commands of a platform cannot run here; `None` if they can.
pub(crate) fn obstacle(platform: &Platform) -> Option<String> {
    obstacle_in(platform, &Platform::host(), Path::new(BINFMT_MISC))
}

fn obstacle_in(platform: &Platform, host: &Platform, directory: &Path) -> Option<String> {
    if host.architecture == platform.architecture
        || (host.architecture == "amd64" && platform.architecture == "386")
    {
        return None;
    }
    let Some(machine) = Machine::of(&platform.architecture) else {
        return Some(format!("{} is no processor that is known here", platform.architecture));
    };
    if !directory.join("status").exists() {
        return Some("binfmt_misc is not mounted at /proc/sys/fs/binfmt_misc".to_owned());
    }
    let on = |text: &str| text.lines().next() == Some("enabled");
    if !read(&directory.join("status")).is_some_and(|text| on(&text)) {
        return Some("binfmt_misc is switched off".to_owned());
    }
    let mut found = None;
    for item in fs::read_dir(directory).ok()?.filter_map(Result::ok) {
        let name = item.file_name().to_string_lossy().into_owned();
        let Some(handler) = read(&item.path()).filter(|text| on(text)) else { continue };
        if !machine.is_served_by(&handler) {
            continue;
        }
        if has_flag(&handler, 'F') {
            return None;
        }
        found = Some(format!(
            "handler {name} is registered without flag F, so its interpreter would have to be in \
             the image"
        ));
    }
    Some(found.unwrap_or_else(|| "no emulator is registered for it".to_owned()))
}

fn read(path: &Path) -> Option<String> {
    use std::io::Read as _;
    let mut text = String::new();
    fs::File::open(path).ok()?.take(HANDLER_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

fn has_flag(handler: &str, flag: char) -> bool {
    handler.lines().any(|line| line.strip_prefix("flags:").is_some_and(|f| f.contains(flag)))
}

/// What ELF headers of an architecture say.
#[derive(Clone, Copy)]
struct Machine {
    /// 1 for 32 bits, 2 for 64 (`EI_CLASS`).
    class: u8,
    /// 1 for little endian, 2 for big (`EI_DATA`).
    data: u8,
    /// `e_machine`.
    number: u16,
}

impl Machine {
    fn of(architecture: &str) -> Option<Self> {
        let (class, data, number) = match architecture {
            "386" => (1, 1, 3),
            "amd64" => (2, 1, 62),
            "arm" => (1, 1, 40),
            "arm64" => (2, 1, 183),
            "loong64" => (2, 1, 258),
            "mips64" => (2, 2, 8),
            "mips64le" => (2, 1, 8),
            "ppc64" => (2, 2, 21),
            "ppc64le" => (2, 1, 21),
            "riscv64" => (2, 1, 243),
            "s390x" => (2, 2, 22),
            _ => return None,
        };
        Some(Self { class, data, number })
    }

    /// Whether a handler's magic is the ELF header of this architecture.
    fn is_served_by(self, handler: &str) -> bool {
        let line = |name: &str| handler.lines().find_map(|line| line.strip_prefix(name));
        let Some(magic) = line("magic ").and_then(bytes) else { return false };
        if line("offset ").is_some_and(|offset| offset.trim() != "0") {
            return false;
        }
        let (Some(b"\x7fELF"), Some([low, high])) = (magic.get(..4), magic.get(18..20)) else {
            return false;
        };
        let number = match self.data {
            1 => u16::from_le_bytes([*low, *high]),
            _ => u16::from_be_bytes([*low, *high]),
        };
        magic.get(4) == Some(&self.class)
            && magic.get(5) == Some(&self.data)
            && number == self.number
    }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let hex = hex.trim().as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    hex.chunks(2)
        .map(|pair| match *pair {
            [high, low] => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AARCH64: &str = "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: OCF\n\
        offset 0\nmagic 7f454c460201010000000000000000000200b700\n\
        mask ffffffffffffff00fffffffffffffffffeffffff\n";

    fn obstacle(architecture: &str, files: &[(&str, &str)]) -> Option<String> {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            fs::write(directory.path().join(name), text).expect("a file");
        }
        obstacle_in(&Platform::linux(architecture), &Platform::linux("amd64"), directory.path())
    }

    #[test]
    fn a_handler_with_flag_f_serves_its_processor_only() {
        let on = ("status", "enabled\n");
        let files = [on, ("any-name", AARCH64), ("register", "")];
        assert_eq!(obstacle("arm64", &files), None);
        for other in ["arm", "riscv64", "s390x"] {
            let text = obstacle(other, &files).expect("no handler");
            assert_eq!(text, "no emulator is registered for it", "{other}");
        }
    }

    #[test]
    fn handlers_that_cannot_serve_are_told_apart() {
        let without_f = AARCH64.replace("OCF", "OC");
        let text = obstacle("arm64", &[("status", "enabled\n"), ("q", &without_f)]);
        assert!(text.expect("refused").contains("handler q is registered without flag F"));
        let disabled = AARCH64.replace("enabled", "disabled");
        let text = obstacle("arm64", &[("status", "enabled\n"), ("q", &disabled)]);
        assert_eq!(text.as_deref(), Some("no emulator is registered for it"));
        let text = obstacle("arm64", &[("status", "disabled\n"), ("q", AARCH64)]);
        assert_eq!(text.as_deref(), Some("binfmt_misc is switched off"));
        assert!(obstacle("arm64", &[]).expect("refused").contains("not mounted"));
    }

    #[test]
    fn what_the_processor_runs_itself_needs_nothing() {
        assert_eq!(obstacle("amd64", &[]), None);
        assert_eq!(obstacle("386", &[]), None);
        assert!(obstacle("vax", &[]).expect("unknown").contains("vax"));
    }
}
