//! Limits the processes for sites of one Matomo: one until it has answered, then one more after each
//! successful run, up to four. So a Matomo that hangs holds only one process. And one that refuses a
//! token gets fewer requests with it than the about 18 after which it locks out this server's address:
//! each process sends two or more. Independent of `matomo.max_workers`. Pure.

use std::collections::HashMap;

/// Maximum processes at once.
const MOST: usize = 4;

/// Limits of Matomos, by URL.
#[derive(Default)]
pub struct ProcessLimits(HashMap<String, Limit>);

#[derive(Clone, Copy)]
struct Limit {
    most: usize,
    /// Whether the last run got no answer: then all sites of the Matomo count as failing.
    is_doubtful: bool,
}

impl Default for Limit {
    fn default() -> Limit {
        Limit { most: 1, is_doubtful: false }
    }
}

impl ProcessLimits {
    /// Records the end of a run.
    pub fn ended(&mut self, matomo: &str, is_answered: bool) {
        let limit = self.0.entry(matomo.to_owned()).or_default();
        let most = if is_answered { (limit.most + 1).min(MOST) } else { 1 };
        *limit = Limit { most, is_doubtful: !is_answered };
    }

    /// Resets Matomos without a running process to one, as they may have changed by the next run.
    pub fn rests(&mut self, is_at_work: impl Fn(&String) -> bool) {
        self.0.retain(|matomo, limit| {
            limit.most = if is_at_work(matomo) { limit.most } else { 1 };
            limit.is_doubtful || limit.most > 1
        });
    }

    /// Maximum processes at once for a Matomo.
    pub fn most(&self, matomo: &str) -> usize {
        self.0.get(matomo).copied().unwrap_or_default().most
    }

    /// Whether the last run got no answer.
    pub fn is_doubtful(&self, matomo: &str) -> bool {
        self.0.get(matomo).copied().unwrap_or_default().is_doubtful
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matomo_that_answers_gets_more_and_one_that_does_not_gets_one() {
        let mut limits = ProcessLimits::default();
        assert_eq!((limits.most("a"), limits.is_doubtful("a")), (1, false));
        for n in [2, 3, 4, 4] {
            limits.ended("a", true);
            limits.ended("b", false);
            assert_eq!((limits.most("a"), limits.is_doubtful("a")), (n, false));
            assert_eq!((limits.most("b"), limits.is_doubtful("b")), (1, true));
        }
        limits.ended("a", false);
        assert_eq!((limits.most("a"), limits.is_doubtful("a")), (1, true));
        limits.ended("b", true);
        assert_eq!((limits.most("b"), limits.is_doubtful("b")), (2, false));
    }

    #[test]
    fn one_that_rests_begins_with_one_again_and_stays_doubtful() {
        let mut limits = ProcessLimits::default();
        for matomo in ["a", "b"] {
            limits.ended(matomo, true);
        }
        limits.ended("c", false);
        limits.rests(|matomo| *matomo == "b");
        assert_eq!(["a", "b", "c"].map(|matomo| limits.most(matomo)), [1, 2, 1]);
        assert_eq!(["a", "b", "c"].map(|matomo| limits.is_doubtful(matomo)), [false, false, true]);
    }
}
