//! Keyset paging through one site-day, so that no visit is skipped. Pure.
//!
//! Matomo's offset counts places in a list that moves while visits go on; a time does not move.
//! Each page asks for visits whose last action is *after* `minTimestamp`, oldest first. The next
//! page starts one second before the last visit seen (Matomo compares with a strict `>`), so visits
//! that share a second with it come again rather than never.

/// What to ask Matomo for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// `filter_limit`.
    pub limit: u32,
    /// `filter_offset`, only ever above 0 within one second.
    pub offset: u32,
    /// `minTimestamp`, an instant in seconds.
    pub after: Option<i64>,
}

/// The place reached in a site-day.
#[derive(Debug)]
pub struct Pager {
    page_size: u32,
    next: Page,
}

/// A page that has grown to this many visits (still half of what a PHP with 128 MB can hold)
/// grows no further; then offsets step through the second.
const LARGEST: u32 = 1000;

impl Pager {
    /// Starts a day with pages of `page_size` visits.
    pub fn new(page_size: u32) -> Pager {
        let next = Page { limit: page_size, offset: 0, after: None };
        Pager { page_size, next }
    }

    /// The page to ask for now.
    pub fn page(&self) -> Page {
        self.next
    }

    /// Takes note of an answer: how many visits it had and the greatest `lastActionTimestamp`
    /// among them. Gives false when the day is done.
    pub fn advance(&mut self, visits: usize, newest: Option<i64>) -> bool {
        let asked = self.next;
        if visits < asked.limit as usize {
            return false;
        }
        let after = newest.map(|instant| instant - 1);
        if after > asked.after {
            self.next = Page { limit: self.page_size, offset: 0, after };
        } else if asked.limit < LARGEST {
            // The whole page lies in one second. From offset 0: what was seen may have moved on.
            self.next.limit = asked.limit.saturating_mul(2);
            self.next.offset = 0;
        } else {
            self.next.offset = asked.offset.saturating_add(asked.limit);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Matomo: visits (last action, id), by time and id, after a time, from an offset.
    fn answer(visits: &BTreeSet<(i64, u32)>, page: Page) -> Vec<(i64, u32)> {
        visits
            .iter()
            .filter(|(at, _)| page.after.is_none_or(|after| *at > after))
            .skip(page.offset as usize)
            .take(page.limit as usize)
            .copied()
            .collect()
    }

    fn walk(
        visits: &mut BTreeSet<(i64, u32)>,
        page_size: u32,
        mut between: impl FnMut(&mut BTreeSet<(i64, u32)>),
    ) -> BTreeSet<u32> {
        let (mut pager, mut seen) = (Pager::new(page_size), BTreeSet::new());
        for _ in 0..100_000 {
            let page = answer(visits, pager.page());
            seen.extend(page.iter().map(|(_, id)| *id));
            if !pager.advance(page.len(), page.iter().map(|(at, _)| *at).max()) {
                return seen;
            }
            between(visits);
        }
        panic!("the pager does not end");
    }

    #[test]
    fn a_short_page_ends_the_day() {
        let mut pager = Pager::new(3);
        assert!(pager.advance(3, Some(10)));
        assert_eq!(pager.page(), Page { limit: 3, offset: 0, after: Some(9) });
        assert!(!pager.advance(2, Some(12)));
    }

    #[test]
    fn a_full_page_within_a_second_grows_then_steps() {
        let mut pager = Pager::new(400);
        assert!(pager.advance(400, Some(10)));
        assert!(pager.advance(400, Some(10)));
        assert_eq!(pager.page(), Page { limit: 800, offset: 0, after: Some(9) });
        assert!(pager.advance(800, Some(10)));
        assert!(pager.advance(1600, Some(10)));
        assert_eq!(pager.page(), Page { limit: 1600, offset: 1600, after: Some(9) });
        assert!(pager.advance(1600, Some(11)));
        assert_eq!(pager.page(), Page { limit: 400, offset: 0, after: Some(10) });
    }

    #[test]
    fn visits_without_a_time_are_not_asked_for_without_end() {
        let mut pager = Pager::new(1000);
        assert!(pager.advance(1000, None));
        assert_eq!(pager.page(), Page { limit: 1000, offset: 1000, after: None });
        assert!(!pager.advance(0, None));
    }

    proptest! {
        /// Ties, pages of one, visits that move to the end while we page: all are seen.
        #[test]
        fn nothing_is_skipped(
            times in prop::collection::vec(0i64..40, 0..120),
            moves in prop::collection::vec((0usize..120, 1i64..50), 0..60),
            page_size in 1u32..9,
        ) {
            let mut visits: BTreeSet<_> =
                times.iter().zip(0u32..).map(|(at, id)| (*at, id)).collect();
            let all: BTreeSet<u32> = visits.iter().map(|(_, id)| *id).collect();
            let mut moves = moves.into_iter();
            let seen = walk(&mut visits, page_size, |visits| {
                if let Some((index, by)) = moves.next()
                    && let Some((at, id)) = visits.iter().nth(index % visits.len().max(1)).copied()
                {
                    visits.remove(&(at, id));
                    visits.insert((at + by, id));
                }
            });
            prop_assert_eq!(seen, all);
        }
    }
}
