//! Did-you-mean: the closest known word.

use crate::limits::SUGGESTION_CANDIDATES_MAX;

/// Distances at and above this are no suggestion.
const DISTANCE_MAX: usize = 3;

/// The candidate closest to `word` (ignoring case), if it is close enough and not the word itself.
pub(crate) fn closest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let word = word.to_lowercase();
    let mut best = None;
    let mut best_distance = DISTANCE_MAX;
    for candidate in candidates.into_iter().take(SUGGESTION_CANDIDATES_MAX) {
        let lower = candidate.to_lowercase();
        if lower == word {
            return None;
        }
        // Lengths this far apart cannot be close; this also bounds the work for long words.
        if lower.len().abs_diff(word.len()) >= DISTANCE_MAX * 4 {
            continue;
        }
        let distance = edit_distance(&word, &lower);
        if distance < best_distance {
            best = Some(candidate);
            best_distance = distance;
        }
    }
    best
}

/// Levenshtein distance in characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::closest;

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        assert_eq!(closest("FORM", ["FROM", "RUN"]), Some("FROM"));
        assert_eq!(closest("mont", ["mount", "network"]), Some("mount"));
        assert_eq!(closest("entirely-else", ["mount", "network"]), None);
        assert_eq!(closest("mount", ["mount"]), None);
    }
}
