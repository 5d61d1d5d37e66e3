//! Which stages are needed, and whether stages wait for each other in a circle.

/// Numbers of the stages reachable from `target`, ascending.
pub(super) fn reachable(target: usize, edges: &[Vec<usize>]) -> Vec<usize> {
    let mut seen = vec![false; edges.len()];
    let mut open = vec![target];
    while let Some(stage) = open.pop() {
        if !std::mem::replace(&mut seen[stage], true) {
            open.extend(&edges[stage]);
        }
    }
    (0..edges.len()).filter(|stage| seen[*stage]).collect()
}

/// A stage that depends on itself, directly or not.
pub(super) fn circular(edges: &[Vec<usize>]) -> Option<usize> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        OnPath,
        Done,
    }
    let mut marks = vec![Mark::New; edges.len()];
    for start in 0..edges.len() {
        if marks[start] != Mark::New {
            continue;
        }
        marks[start] = Mark::OnPath;
        // Stage and the number of its edges already followed.
        let mut path = vec![(start, 0)];
        while let Some((stage, followed)) = path.last_mut() {
            let Some(&next) = edges[*stage].get(*followed) else {
                marks[*stage] = Mark::Done;
                path.pop();
                continue;
            };
            *followed += 1;
            match marks[next] {
                Mark::OnPath => return Some(next),
                Mark::Done => {}
                Mark::New => {
                    marks[next] = Mark::OnPath;
                    path.push((next, 0));
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_target_needs_is_reachable() {
        let edges = [vec![], vec![0], vec![], vec![1]];
        assert_eq!(reachable(3, &edges), [0, 1, 3]);
        assert_eq!(reachable(2, &edges), [2]);
    }

    #[test]
    fn circles_are_found_however_long() {
        assert_eq!(circular(&[vec![], vec![0], vec![0, 1]]), None);
        assert_eq!(circular(&[vec![0]]), Some(0));
        assert_eq!(circular(&[vec![2], vec![0], vec![1]]), Some(0));
        let mut long: Vec<Vec<usize>> = (0..10_000).map(|n| vec![n + 1]).collect();
        long.push(vec![0]);
        assert_eq!(circular(&long), Some(0));
    }
}
