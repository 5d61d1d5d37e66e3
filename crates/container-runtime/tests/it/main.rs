//! Real containers from a busybox root.

fn main() {
    container_runtime::reexec();
}
