//! Limits the processes for sites of one Matomo: one until it has answered, then one more after each
//! successful run, up to four. So a Matomo that hangs holds only one process. And one that refuses a
//! token gets fewer requests with it than the about 18 after which it locks out this server's address:
//! each process sends two or more. Independent of `matomo.max_workers`. Pure.

use std::collections::HashMap;

/// Maximum processes at once.
const MOST: usize = 4;

/// Limits of Matomos, by URL.
#[derive(Default)]
pub struct Shares(HashMap<String, Share>);

#[derive(Clone, Copy)]
struct Share {
    most: usize,
    /// Whether the last run got no answer: then all sites of the Matomo count as failing.
    is_doubtful: bool,
}

impl Default for Share {
    fn default() -> Share {
        Share { most: 1, is_doubtful: false }
    }
}

impl Shares {
    /// Records the end of a run.
    pub fn ended(&mut self, matomo: &str, is_answered: bool) {
        let share = self.0.entry(matomo.to_owned()).or_default();
        let most = if is_answered { (share.most + 1).min(MOST) } else { 1 };
        *share = Share { most, is_doubtful: !is_answered };
    }

    /// Resets Matomos without a running process to one, as they may have changed by the next run.
    pub fn rests(&mut self, is_at_work: impl Fn(&String) -> bool) {
        self.0.retain(|matomo, share| {
            share.most = if is_at_work(matomo) { share.most } else { 1 };
            share.is_doubtful || share.most > 1
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
        let mut shares = Shares::default();
        assert_eq!((shares.most("a"), shares.is_doubtful("a")), (1, false));
        for n in [2, 3, 4, 4] {
            shares.ended("a", true);
            shares.ended("b", false);
            assert_eq!((shares.most("a"), shares.is_doubtful("a")), (n, false));
            assert_eq!((shares.most("b"), shares.is_doubtful("b")), (1, true));
        }
        shares.ended("a", false);
        assert_eq!((shares.most("a"), shares.is_doubtful("a")), (1, true));
        shares.ended("b", true);
        assert_eq!((shares.most("b"), shares.is_doubtful("b")), (2, false));
    }

    #[test]
    fn one_that_rests_begins_with_one_again_and_stays_doubtful() {
        let mut shares = Shares::default();
        for matomo in ["a", "b"] {
            shares.ended(matomo, true);
        }
        shares.ended("c", false);
        shares.rests(|matomo| *matomo == "b");
        assert_eq!(["a", "b", "c"].map(|matomo| shares.most(matomo)), [1, 2, 1]);
        assert_eq!(["a", "b", "c"].map(|matomo| shares.is_doubtful(matomo)), [false, false, true]);
    }
}
