//! How a scanned receipt is set.

use super::Content;
use super::slip::Slip;
use crate::colour::{BLACK, WHITE};
use crate::column::{Column, Row};
use crate::font::Class;
use crate::page::{Align, Page, Type};

impl Slip {
    /// Rows, and the indices of the first company, address, date and total rows.
    fn column<'f>(
        &self,
        page: &mut Page<'_>,
        print: Type<'f>,
        head: Type<'f>,
    ) -> (Column<'f>, [usize; 4]) {
        let mut column = Column::default();
        let ink = page.scheme.ink;
        let align = if page.maybe(0.25) {
            Align::Left
        } else {
            Align::Centre
        };
        let name = page.vary(1.2, 1.0, 1.5);
        let mut texts = |lines: &[String], typ: Type<'f>, rel: f32| {
            let first = column.rows.len();
            for line in lines {
                column.push(Row::Text(typ, rel, align, line.clone()));
            }
            first
        };
        let company = texts(&self.company, head, name);
        texts(&self.registered, print, 0.9);
        let address = texts(&self.address, print, 1.0);
        texts(&self.below, print, 1.0);
        let ruled = page.maybe(0.6);
        let rule = |column: &mut Column<'f>| {
            column.push(if ruled {
                Row::Rule(ink, true)
            } else {
                Row::Gap(0.5)
            });
        };
        rule(&mut column);
        let apart = page.maybe(0.4);
        let mut date = column.rows.len();
        for (label, value) in &self.details {
            if label.contains(&self.date) || value.contains(&self.date) {
                date = column.rows.len();
            }
            column.push(if value.is_empty() {
                Row::Text(print, 1.0, Align::Left, label.clone())
            } else if apart {
                Row::Pair(print, 1.0, label.clone(), value.clone())
            } else {
                Row::Entry(print, print, 1.0, 0.42, label.clone(), value.clone())
            });
        }
        rule(&mut column);
        for (left, right) in &self.goods {
            column.push(if right.is_empty() {
                Row::Text(print, 1.0, Align::Left, left.clone())
            } else {
                Row::Pair(print, 1.0, left.clone(), right.clone())
            });
        }
        rule(&mut column);
        let (mut total, large) = (0, page.vary(1.2, 1.0, 1.4));
        for (i, (label, value)) in self.sums.iter().enumerate() {
            let (typ, rel) = if i == self.total {
                (head, large)
            } else {
                (print, 1.0)
            };
            let row = column.push(Row::Pair(typ, rel, label.clone(), value.clone()));
            if i == self.total {
                total = row;
            }
        }
        column.push(Row::Gap(0.6));
        for line in &self.footer {
            column.push(Row::Text(print, 1.0, Align::Centre, line.clone()));
        }
        (column, [company, address, date, total])
    }
}

impl Content for Slip {
    fn draw(&self, page: &mut Page<'_>) {
        page.scheme.paper = WHITE;
        page.scheme.ink = BLACK;
        let print = page.typ(&[Class::Mono, Class::Mono, Class::Sans, Class::Serif]);
        let head = if page.maybe(0.5) {
            page.typ(&[Class::Bold, Class::Mono])
        } else {
            print
        };
        let (w, h) = (page.w(), page.h());
        let inner = w * page.vary(0.88, 0.75, 0.96);
        let (column, [company, address, date, total]) = self.column(page, print, head);
        let most = page.space.px[1].min(w * 0.06);
        let unit = column.unit(inner, h * page.vary(0.94, 0.85, 0.98), most, page.fixed());
        page.sheet([0.0, 0.0, w, h], page.scheme.paper.rgb);
        let top = (h - column.total(unit)) * page.vary(0.5, 0.1, 0.9);
        let rows = column.draw(page, [(w - inner) / 2.0, top, inner], unit);
        let item = |row: usize, side: usize| rows.get(row).and_then(|r| r[side]);
        if let Some(id) = item(company, 0) {
            page.fact("company", "", &self.company.join(" "), None, id);
        }
        if let Some(id) = item(address, 0) {
            page.fact("shop_address", "", &self.address.join(" "), None, id);
        }
        if let (label, Some(id)) = (item(date, 0), item(date, 1).or(item(date, 0))) {
            let label = label.filter(|l| *l != id);
            page.fact("issue_date", "", &self.date, label, id);
        }
        if let (label, Some(id)) = (item(total, 0), item(total, 1)) {
            page.fact("receipt_total", "", &self.sums[self.total].1, label, id);
        }
        page.say(format!(
            "A printed receipt headed \"{}\", issued on {}. The goods are listed in the middle, and the line \"{}\" gives {}.",
            self.company[0], self.date, self.sums[self.total].0, self.sums[self.total].1
        ));
    }
}
