//! Faults of a sync.

use fake_matomo::{Fault, Page, When};

use super::bench::Disaster;
use super::course::Course;
use super::witness::Order;
use crate::support::run;

/// How a sync may end badly.
#[derive(Clone, Copy, PartialEq)]
pub enum Trouble {
    None,
    /// Matomo fails; the sync may fail too.
    Matomo,
    Cancel,
    Kill,
}

impl Course<'_, '_> {
    /// Prepares what will go wrong; gives it and `matomo.max_retries`.
    pub fn trouble(&mut self, order: &Order) -> (Trouble, i32) {
        let request = self.random.below(8);
        let once = When::live().after(request).times(1);
        if self.with_kills && self.random.percent(60) {
            let late = self.random.percent(60).then(|| self.random.number() % 40);
            let postmaster = self.bench.postmaster();
            self.stage.note(format!("  kill -9 with request {request}, {late:?} ms after it"));
            let disaster = Disaster::Kill { postmaster, late };
            self.stage.scene().disaster = Some((request, disaster));
            return (Trouble::Kill, 0);
        }
        let fault = match self.random.below(100) {
            0..6 => {
                let cancel = self.bench.cancel();
                self.stage.note(format!("  cancel with request {request}"));
                self.stage.scene().disaster = Some((request, cancel));
                return (Trouble::Cancel, 0);
            }
            6..10 => Fault::Status(500, Page::Json),
            10..13 => Fault::Reset,
            13..16 => Fault::HalfBody,
            16..18 => Fault::Html,
            18..20 => Fault::Empty,
            // What makes pages smaller. A page of one cannot be.
            20..28 if order.page_size > 1 => {
                let status = self.random.pick(&[502, 504]);
                self.stage.note(format!("  {status} after {request} requests, then smaller pages"));
                self.fake.fail(Fault::Status(status, Page::Html), once);
                return (Trouble::None, 1);
            }
            28..36 => {
                let most = self.random.between(1, 4);
                self.stage.note(format!("  no memory for more than {most} visits"));
                let words = "Allowed memory size of 134217728 bytes exhausted (tried ...)";
                let fault = Fault::Status500Envelope(words.to_owned());
                self.fake.fail(fault, When::live().limit_over(most));
                return (Trouble::None, 1);
            }
            36 if order.page_size > 1 => {
                self.stage.note(format!("  hangs after {request} requests"));
                run(&mut self.bench.db, "SET matomo.request_timeout = '1s'");
                self.fake.fail(Fault::Hang, once);
                return (Trouble::None, 1);
            }
            // Fails once, and is asked again half a second later.
            37 => {
                self.stage.note(format!("  resets once after {request} requests"));
                self.fake.fail(Fault::Reset, once);
                return (Trouble::None, 1);
            }
            _ => return (Trouble::None, 1),
        };
        self.stage.note(format!("  {fault:?} after {request} requests"));
        self.fake.fail(fault, once);
        (Trouble::Matomo, 0)
    }
}
