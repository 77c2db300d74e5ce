//! Keyset paging through one site-day, so that no visit is skipped. Pure.
//!
//! Matomo's offset counts positions in a list that changes while visits go on; times do not change.
//! Each page requests visits whose last action is *after* `minTimestamp`, oldest first. The next
//! page starts one second before the last visit listed (Matomo compares with a strict `>`), so
//! visits of the same second come twice rather than never.

use std::collections::HashSet;

/// The parameters of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest {
    /// `filter_limit`.
    pub limit: u32,
    /// `filter_offset`, above 0 only within one second.
    pub offset: u32,
    /// `minTimestamp`, an instant in seconds.
    pub after: Option<i64>,
}

/// The position reached in a site-day.
#[derive(Debug)]
pub struct Pager {
    page_size: u32,
    /// Where the first page began.
    first: Option<i64>,
    next: PageRequest,
    /// The page size that was too large for Matomo, and the number of answers since.
    too_large: Option<(u32, u32)>,
    /// The visits of the second that is paged by offset, as listed in this pass and the previous
    /// one. If both are equal, no visit was skipped because others came or left.
    walk: Vec<i64>,
    walk_before: Option<Vec<i64>>,
    /// Number of passes through that second.
    walks: u32,
    /// The visits of this pass, and the number of answers in a row that added none.
    walked: HashSet<i64>,
    idle: u32,
}

/// Why another request would not help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stuck {
    /// Offsets give no other visits.
    SamePage,
    /// Each pass through a second lists its visits in another order.
    OtherOrder,
}

/// Largest page, still half of what PHP with 128 MB can hold. Beyond it, a second is paged by
/// offset.
const MAX_PAGE_SIZE: u32 = 1000;

/// Maximum passes through a second, and maximum answers in a row without another visit of it. A few can
/// be due to visits that come or leave meanwhile.
const MOST_WALKS: u32 = 20;
const MOST_IDLE: u32 = 10;

/// Pages grow again after this many answers.
const ANSWERS_BEFORE_GROWTH: u32 = 4;

impl Pager {
    /// Starts a day with pages of `page_size` visits, from an instant if one is given.
    pub fn new(page_size: u32, since: Option<i64>) -> Pager {
        let next = PageRequest { limit: page_size, offset: 0, after: since.map(|at| at - 1) };
        let (first, walk, walk_before, walks) = (next.after, Vec::new(), None, 0);
        let (too_large, walked, idle) = (None, HashSet::new(), 0);
        Pager { page_size, first, next, too_large, walk, walk_before, walks, walked, idle }
    }

    /// The instant from which another pager can continue; `None` within a second that is paged by
    /// offset, and where this pager started.
    pub fn resume_at(&self) -> Option<i64> {
        let PageRequest { offset, after, .. } = self.next;
        (offset == 0 && self.walk_before.is_none() && after > self.first)
            .then(|| after.map(|after| after + 1))
            .flatten()
    }

    /// The page to request now.
    pub fn page(&self) -> PageRequest {
        self.next
    }

    /// Records the visits (ID, `lastActionTimestamp`) of an answer. Call it before `advance`.
    pub fn listed(&mut self, visits: impl Iterator<Item = (i64, Option<i64>)>) {
        if self.next.offset == 0 {
            self.walk.clear();
            self.walked.clear();
            self.idle = 0;
        }
        let second = self.next.after.map(|after| after + 1);
        let of_second = visits.filter(|(_, last)| second.is_none() || *last == second);
        let (known, before) = (self.walked.len(), self.walk.len());
        self.walk.extend(of_second.map(|(id, _)| id));
        self.walked.extend(&self.walk[before..]);
        self.idle = if self.walked.len() > known { 0 } else { self.idle + 1 };
    }

    /// Whether another request would not help.
    pub fn stuck(&self) -> Option<Stuck> {
        if self.walks >= MOST_WALKS {
            return Some(Stuck::OtherOrder);
        }
        (self.next.offset > 0 && self.idle >= MOST_IDLE).then_some(Stuck::SamePage)
    }

    /// Records an answer: its number of visits and their greatest `lastActionTimestamp`. Returns
    /// false when the day is complete.
    pub fn advance(&mut self, visits: usize, newest: Option<i64>) -> bool {
        let asked = self.next;
        let is_short = visits < asked.limit as usize;
        let after = newest.map(|instant| instant - 1);
        if asked.offset > 0 && (is_short || after > asked.after) {
            // The end of a second paged by offset. A visit that leaves the second moves others to
            // positions already read: page it again until nothing has moved.
            let walk = std::mem::take(&mut self.walk);
            if self.walk_before.as_ref() != Some(&walk) {
                self.walk_before = Some(walk);
                self.walks += 1;
                self.next.offset = 0;
                return true;
            }
        }
        if is_short {
            return false;
        }
        if let Some((_, answers)) = &mut self.too_large {
            *answers += 1;
        }
        if after > asked.after {
            self.walk_before = None;
            self.walks = 0;
            self.next = PageRequest { limit: self.limit(asked.limit), offset: 0, after };
        } else if asked.limit < MAX_PAGE_SIZE && self.may_ask(asked.limit.saturating_mul(2)) {
            // The whole page is of one second. Start at offset 0, as positions may have moved.
            self.next.limit = asked.limit.saturating_mul(2);
            self.next.offset = 0;
        } else {
            self.next.offset = asked.offset.saturating_add(asked.limit);
        }
        true
    }

    /// Matomo could not answer the last page: requests a part of it. Returns false if it was a page
    /// of one visit.
    pub fn shrink(&mut self, by: u32) -> bool {
        let asked = self.next.limit;
        if asked <= 1 {
            return false;
        }
        self.too_large = Some((asked, 0));
        self.next.limit = (asked / by).max(1);
        true
    }

    /// The size of the next page, growing back after some answers.
    fn limit(&mut self, asked: u32) -> u32 {
        match self.too_large {
            None => self.page_size,
            Some((_, answers)) if answers % ANSWERS_BEFORE_GROWTH == 0 => {
                let larger = asked.saturating_mul(2).min(self.page_size);
                if larger == self.page_size {
                    self.too_large = None;
                }
                larger
            }
            Some(_) => asked.min(self.page_size),
        }
    }

    fn may_ask(&self, limit: u32) -> bool {
        self.too_large.is_none_or(|(size, _)| limit < size)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Matomo: visits (last action, id), by time and id, after a time, from an offset.
    fn answer(visits: &BTreeSet<(i64, u32)>, page: PageRequest) -> Vec<(i64, u32)> {
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
        most: u32,
        most_pages: usize,
        mut between: impl FnMut(&mut BTreeSet<(i64, u32)>),
    ) -> BTreeSet<u32> {
        let (mut pager, mut seen) = (Pager::new(page_size, None), BTreeSet::new());
        let mut pages = 0;
        for _ in 0..100_000 {
            if pager.page().limit > most {
                assert!(pager.shrink(2));
                continue;
            }
            let page = answer(visits, pager.page());
            seen.extend(page.iter().map(|(_, id)| *id));
            pager.listed(page.iter().map(|(at, id)| (i64::from(*id), Some(*at))));
            if !pager.advance(page.len(), page.iter().map(|(at, _)| *at).max()) {
                return seen;
            }
            pages += 1;
            if let Some(since) = pager.resume_at().filter(|_| pages >= most_pages) {
                (pager, pages) = (Pager::new(page_size, Some(since)), 0);
            }
            between(visits);
        }
        panic!("the pager does not end");
    }

    #[test]
    fn a_short_page_ends_the_day() {
        let mut pager = Pager::new(3, None);
        assert!(pager.advance(3, Some(10)));
        assert_eq!(pager.page(), PageRequest { limit: 3, offset: 0, after: Some(9) });
        assert!(!pager.advance(2, Some(12)));
    }

    #[test]
    fn a_full_page_within_a_second_grows_then_steps() {
        let mut pager = Pager::new(400, None);
        assert!(pager.advance(400, Some(10)));
        assert!(pager.advance(400, Some(10)));
        assert_eq!(pager.page(), PageRequest { limit: 800, offset: 0, after: Some(9) });
        assert!(pager.advance(800, Some(10)));
        assert!(pager.advance(1600, Some(10)));
        assert_eq!(pager.page(), PageRequest { limit: 1600, offset: 1600, after: Some(9) });
        assert!(pager.advance(1600, Some(11)));
        // Once more, as visits may have left the second meanwhile.
        assert_eq!(pager.page(), PageRequest { limit: 1600, offset: 0, after: Some(9) });
        assert!(pager.advance(1600, Some(10)));
        assert!(pager.advance(1600, Some(11)));
        assert_eq!(pager.page(), PageRequest { limit: 400, offset: 0, after: Some(10) });
    }

    #[test]
    fn a_page_too_large_is_halved_and_grows_again() {
        let mut pager = Pager::new(8, Some(100));
        assert_eq!(pager.page(), PageRequest { limit: 8, offset: 0, after: Some(99) });
        assert!(pager.shrink(2) && pager.shrink(8));
        assert!(!pager.shrink(2));
        let mut sizes = Vec::new();
        for at in 101..120 {
            let limit = pager.page().limit;
            assert!(pager.advance(limit as usize, Some(at)));
            sizes.push(limit);
        }
        assert_eq!(sizes, [1, 1, 1, 1, 2, 2, 2, 2, 4, 4, 4, 4, 8, 8, 8, 8, 8, 8, 8]);
    }

    #[test]
    fn a_second_too_large_for_one_page_is_stepped_through() {
        let mut pager = Pager::new(4, None);
        assert!(pager.shrink(2));
        assert!(pager.advance(2, Some(10)));
        assert!(pager.advance(2, Some(10)));
        assert_eq!(pager.page(), PageRequest { limit: 2, offset: 2, after: Some(9) });
    }

    #[test]
    fn visits_without_a_time_are_not_asked_for_without_end() {
        let mut pager = Pager::new(1000, None);
        assert!(pager.advance(1000, None));
        assert_eq!(pager.page(), PageRequest { limit: 1000, offset: 1000, after: None });
        assert!(pager.advance(0, None));
        assert!(pager.advance(1000, None));
        assert!(!pager.advance(0, None));
    }

    /// Walks while one visit moves on after every so many answers; gives those seen, and all.
    fn walk_while_visits_move(
        times: &[i64],
        moves: Vec<(usize, i64)>,
        page_size: u32,
        most: u32,
        most_pages: usize,
        every: usize,
    ) -> (BTreeSet<u32>, BTreeSet<u32>) {
        let mut visits: BTreeSet<_> = times.iter().zip(0u32..).map(|(at, id)| (*at, id)).collect();
        let all = visits.iter().map(|(_, id)| *id).collect();
        let mut moves = moves.into_iter();
        let mut answers = 0;
        let seen = walk(&mut visits, page_size, most, most_pages, |visits| {
            answers += 1;
            if answers % every == 0
                && let Some((index, by)) = moves.next()
                && let Some((at, id)) = visits.iter().nth(index % visits.len().max(1)).copied()
            {
                visits.remove(&(at, id));
                visits.insert((at + by, id));
            }
        });
        (seen, all)
    }

    proptest! {
        /// Ties, pages of one, visits that move to the end while we page, pagers that go on in
        /// place of others: all are seen.
        #[test]
        fn nothing_is_skipped(
            times in prop::collection::vec(0i64..40, 0..120),
            moves in prop::collection::vec((0usize..120, 1i64..50), 0..60),
            page_size in 1u32..9,
            most_pages in 1usize..9,
        ) {
            let (seen, all) = walk_while_visits_move(&times, moves, page_size, u32::MAX, most_pages, 1);
            prop_assert_eq!(seen, all);
        }

        /// The same with a server too weak for the visits of a second at once. (Should one visit
        /// leave the second and another one come at the same time, and again in the second walk,
        /// nobody can tell; so here they do not follow on each other as closely.)
        #[test]
        fn nothing_is_skipped_by_offsets(
            times in prop::collection::vec(0i64..20, 0..120),
            moves in prop::collection::vec((0usize..120, 1i64..50), 0..60),
            page_size in 2u32..9,
            most in 1u32..4,
            most_pages in 1usize..9,
        ) {
            let (seen, all) = walk_while_visits_move(&times, moves, page_size, most, most_pages, 20);
            prop_assert_eq!(seen, all);
        }
    }
}
