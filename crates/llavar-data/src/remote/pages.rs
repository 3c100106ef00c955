//! Pages of a file that were read last.

use std::{collections::BTreeMap, ops::Range};

/// Bytes of a page.
pub(super) const PAGE: u64 = 64 << 10;
/// Pages that are kept: 32 MiB a file.
const KEPT: usize = 512;
/// Most pages that one request fetches: 8 MiB.
const MOST: u64 = 128;

/// A bounded set of pages, with what is known of how they are read.
#[derive(Debug)]
pub(super) struct Pages {
    /// Bytes by number, with the time of the last use.
    pages: BTreeMap<u64, (u64, Box<[u8]>)>,
    time: u64,
    /// Page behind the last one that was fetched, and how many were fetched then.
    next: u64,
    fetched: u64,
}

impl Pages {
    pub(super) fn new() -> Self {
        Self {
            pages: BTreeMap::new(),
            time: 0,
            next: 0,
            fetched: 0,
        }
    }

    /// The bytes to fetch before `range` can be read, whole pages; `None` where its beginning is here.
    pub(super) fn plan(&mut self, range: Range<u64>) -> Option<Range<u64>> {
        let first = range.start / PAGE;
        if self.pages.contains_key(&first) {
            return None;
        }
        let wanted = (range.end.div_ceil(PAGE) - first).clamp(1, MOST);
        let count = match first == self.next {
            // Read on: twice as much as the last time.
            true => wanted.max(2 * self.fetched).min(MOST),
            false => wanted,
        };
        (self.next, self.fetched) = (first + count, count);
        Some(first * PAGE..(first + count) * PAGE)
    }

    /// Keeps bytes that begin with a page.
    pub(super) fn put(&mut self, offset: u64, bytes: &[u8]) {
        for (n, page) in (0..).zip(bytes.chunks(PAGE as usize)) {
            self.time += 1;
            self.pages
                .insert(offset / PAGE + n, (self.time, page.into()));
        }
        while self.pages.len() > KEPT {
            let oldest = self.pages.iter().min_by_key(|(_, (time, _))| *time);
            let Some(number) = oldest.map(|(number, _)| *number) else {
                return;
            };
            self.pages.remove(&number);
        }
    }

    /// Copies what is here of the bytes from `offset` on, without a gap; gives their number.
    pub(super) fn copy(&mut self, offset: u64, buffer: &mut [u8]) -> usize {
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let Some((time, page)) = self.pages.get_mut(&(at / PAGE)) else {
                break;
            };
            self.time += 1;
            *time = self.time;
            let rest = page.get((at % PAGE) as usize..).unwrap_or_default();
            let count = rest.len().min(buffer.len() - done);
            if count == 0 {
                break;
            }
            buffer[done..done + count].copy_from_slice(&rest[..count]);
            done += count;
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_on_fetches_more_and_jumping_fetches_little() {
        let mut pages = Pages::new();
        let mut at = 0;
        let mut sizes = Vec::new();
        for _ in 0..10 {
            let plan = pages.plan(at..at + 100).unwrap();
            sizes.push((plan.end - plan.start) / PAGE);
            pages.put(plan.start, &vec![7; (plan.end - plan.start) as usize]);
            assert!(pages.pages.len() <= KEPT);
            at = plan.end;
        }
        assert_eq!(sizes, [1, 2, 4, 8, 16, 32, 64, 128, 128, 128]);
        let jump = pages
            .plan(at + 1000 * PAGE + 5..at + 1000 * PAGE + 9)
            .unwrap();
        assert_eq!(jump.end - jump.start, PAGE);
        let mut buffer = [0; 300];
        assert_eq!(
            pages.copy(at - 100, &mut buffer),
            100,
            "nothing behind a gap"
        );
        assert!(buffer[..100].iter().all(|b| *b == 7));
    }
}
