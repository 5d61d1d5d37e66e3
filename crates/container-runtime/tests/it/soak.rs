//! Many at once.

use std::fs;

use container_runtime::{Container, State};

use crate::Outcome;
use crate::fixture::{Fixture, mounts_below, same};

crate::tests!(fifty_containers_live_side_by_side, start_and_delete_in_a_loop_leaves_nothing);

fn fifty_containers_live_side_by_side() -> Outcome {
    let fixture = Fixture::new()?;
    let mut containers = Vec::new();
    for index in 0..50 {
        let script = format!("echo {index}; read line < /go 2>/dev/null; exec sleep 1000");
        let id = format!("c{index}");
        containers.push(fixture.start(&id, &fixture.script(&id, &script)?)?);
    }
    for container in &containers {
        same(matches!(container.state()?, State::Running { .. }), true)?;
        container.kill_all()?;
    }
    for container in &containers {
        same(container.wait()?.code(), 137)?;
    }
    containers.iter().try_for_each(Container::delete)?;
    same(fs::read_dir(fixture.path("containers"))?.count(), 0)?;
    same(mounts_below(&fixture.path(""))?, Vec::new())
}

fn start_and_delete_in_a_loop_leaves_nothing() -> Outcome {
    let fixture = Fixture::new()?;
    let descriptors = || Ok::<_, std::io::Error>(fs::read_dir("/proc/self/fd")?.count());
    let before = descriptors()?;
    for round in 0..30 {
        same(fixture.run_script("a", &format!("exit {}", round % 7))?.code, round % 7)?;
    }
    same(descriptors()?, before)?;
    same(fs::read_dir(fixture.path("containers"))?.count(), 0)
}
