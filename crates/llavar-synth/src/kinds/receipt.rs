//! Till receipts: the lines add up, tax and total follow from them.

use super::{Content, common_px};
use crate::colour::{BLACK, WHITE};
use crate::column::{Column, Row};
use crate::font::Class;
use crate::page::{Align, Page, Space, Type};
use crate::rng::Rng;
use crate::words::{self, Speaker};

#[derive(Debug)]
pub(super) struct Receipt {
    shop: String,
    address: String,
    phone: String,
    number: i64,
    date: String,
    time: String,
    items: Vec<(String, i64)>,
    /// Tax in percent; 0 prints no tax lines.
    tax: i64,
    card: bool,
    total: i64,
}

impl Receipt {
    pub(super) fn sample(rng: &mut Rng, speaker: &Speaker<'_>, space: &Space) -> Self {
        if space.few() {
            return Self {
                shop: speaker.name(&words::NOUNS, rng),
                total: speaker.number(rng) * 100,
                address: String::new(),
                phone: String::new(),
                number: 0,
                date: String::new(),
                time: String::new(),
                items: Vec::new(),
                tax: 0,
                card: false,
            };
        }
        let owner = speaker.name(&words::SURNAMES, rng);
        let most = space.lines(0.9, 11, 21) - 10;
        let goods = speaker.distinct(&words::GOODS, 1 + rng.below(most.min(10)), rng);
        // Prices share the room below the largest total.
        let top = (speaker.largest() * 100 / goods.len().max(1) as i64).clamp(100, 6000);
        let mut items = Vec::new();
        for name in goods {
            let price = if speaker.config.cents {
                rng.int(95, top.max(99))
            } else {
                rng.int(1, top / 100) * 100
            };
            items.push((name, price));
        }
        let sum: i64 = items.iter().map(|i| i.1).sum();
        let tax = if speaker.config.cents && rng.chance(0.5) {
            *rng.pick(&[5, 7, 8, 10, 19, 20])
        } else {
            0
        };
        Self {
            shop: format!("{owner} {}", speaker.word(&words::SHOP_TYPES, rng)),
            address: format!(
                "{} {}, {}",
                rng.int(1, 99),
                speaker.word(&words::STREETS, rng),
                speaker.word(&words::TOWNS, rng)
            ),
            phone: speaker.phone(rng),
            number: rng.int(1000, 99999),
            date: speaker.date(rng),
            time: speaker.time(rng),
            total: sum + tax_of(sum, tax),
            items,
            tax,
            card: rng.chance(0.6),
        }
    }

    fn draw_few(&self, page: &mut Page<'_>) {
        let typ = page.typ(&[Class::Bold]);
        let (w, h) = (page.w(), page.h());
        let margin = w * 0.06;
        page.sheet([0.0, 0.0, w, h], page.scheme.paper.rgb);
        let label = page.speaker.label("TOTAL");
        let shop_px = common_px(&typ, page.speaker.list(&words::NOUNS), w - 2.0 * margin);
        let most = page.space.px[1];
        let shop = page.line(
            &typ.px(shop_px.min(most)).fit(&self.shop, w - 2.0 * margin),
            margin,
            h * 0.26,
            Align::Left,
            &self.shop,
        );
        page.canvas.rect(
            margin,
            h * 0.38,
            w - 2.0 * margin,
            h * 0.012,
            page.scheme.ink.rgb,
        );
        let small = typ.px(most.min(w * 0.12));
        let name = page.line(
            &small.fit(label, w * 0.5),
            margin,
            h * 0.58,
            Align::Left,
            label,
        );
        let amount = page.speaker.money(self.total);
        let big = typ.px(most).fit(&amount, w - 2.0 * margin);
        let total = page.line(&big, margin, h * 0.85, Align::Left, &amount);
        page.fact("shop", "", &self.shop, None, shop);
        page.fact("total", "", &amount, Some(name), total);
        page.say(format!(
            "A receipt from \"{}\". The total is {amount}.",
            self.shop
        ));
    }

    fn column<'f>(
        &self,
        page: &Page<'_>,
        print: Type<'f>,
        head: Type<'f>,
    ) -> (Column<'f>, Vec<usize>) {
        let mut column = Column::default();
        let speaker = &page.speaker;
        let ink = page.scheme.ink;
        let text = |rel, align, text: &str| Row::Text(print, rel, align, text.to_owned());
        let mut keys = vec![column.push(Row::Text(head, 1.6, Align::Centre, self.shop.clone()))];
        keys.push(column.push(text(0.9, Align::Centre, &self.address)));
        column.push(text(0.9, Align::Centre, &format!("Tel. {}", self.phone)));
        column.push(Row::Rule(ink, true));
        let number = format!("{} {}", speaker.label("Receipt"), self.number);
        keys.push(column.push(Row::Pair(print, 0.95, number, self.time.clone())));
        keys.push(column.push(Row::Pair(
            print,
            0.95,
            speaker.label("Date").to_owned(),
            self.date.clone(),
        )));
        column.push(Row::Rule(ink, true));
        keys.push(column.rows.len());
        for (name, price) in &self.items {
            column.push(Row::Pair(print, 1.0, name.clone(), speaker.money(*price)));
        }
        column.push(Row::Rule(ink, true));
        if self.tax > 0 {
            let sum: i64 = self.items.iter().map(|i| i.1).sum();
            let label = speaker.label("SUBTOTAL").to_owned();
            column.push(Row::Pair(print, 1.0, label, speaker.money(sum)));
            let label = format!("{} {}%", speaker.label("TAX"), self.tax);
            column.push(Row::Pair(
                print,
                1.0,
                label,
                speaker.money(self.total - sum),
            ));
        }
        let (label, amount) = (speaker.label("TOTAL").to_owned(), speaker.money(self.total));
        keys.push(column.push(Row::Pair(head, 1.35, label, amount.clone())));
        let paid = speaker
            .label(if self.card { "Card" } else { "Cash" })
            .to_owned();
        keys.push(column.push(Row::Pair(print, 1.0, paid, amount)));
        column.push(Row::Gap(0.4));
        column.push(text(1.0, Align::Centre, speaker.label("Thank you!")));
        (column, keys)
    }
}

/// Tax on an amount of cents, rounded to a cent.
fn tax_of(cents: i64, percent: i64) -> i64 {
    (cents * percent + 50) / 100
}

impl Content for Receipt {
    fn draw(&self, page: &mut Page<'_>) {
        if self.items.is_empty() {
            return self.draw_few(page);
        }
        if page.scheme.paper.name != "white" && page.maybe(0.7) {
            // Thermal paper is white as a rule.
            page.scheme.paper = WHITE;
            page.scheme.ink = BLACK;
        }
        let (mono, bold) = (
            page.typ(&[Class::Mono, Class::Mono, Class::Sans]),
            page.typ(&[Class::Bold, Class::Mono]),
        );
        let (w, h) = (page.w(), page.h());
        let paper_w = page.vary(0.85, 0.7, 0.94) * w.min(h * 0.8);
        let inner = paper_w * 0.88;
        let (column, keys) = self.column(page, mono, bold);
        let most = page.space.px[1].min(page.side() * 0.045);
        let unit = column.unit(inner, h * 0.9, most, page.fixed());
        let height = column.total(unit);
        let x = if page.maybe(0.5) {
            page.rng.range(0.02, 0.98 - paper_w / w) * w
        } else {
            (w - paper_w) / 2.0
        };
        let room = h - height;
        let y = room * 0.5;
        page.sheet(
            [
                x,
                y - room.min(unit * 2.0) * 0.45,
                paper_w,
                height + room.min(unit * 2.0) * 0.9,
            ],
            page.scheme.paper.rgb,
        );
        let rows = column.draw(page, [x + (paper_w - inner) / 2.0, y, inner], unit);
        let item = |row: usize, side: usize| rows.get(row).and_then(|r| r[side]);
        let [shop, address, number, date, first, total, paid] = keys[..] else {
            return;
        };
        let amount = page.speaker.money(self.total);
        if let Some(id) = item(shop, 0) {
            page.fact("shop", "", &self.shop, None, id);
        }
        if let Some(id) = item(address, 0) {
            page.fact("address", "", &self.address, None, id);
        }
        if let (Some(id), Some(time)) = (item(number, 0), item(number, 1)) {
            page.fact("receipt_number", "", &self.number.to_string(), None, id);
            page.fact("time", "", &self.time, None, time);
        }
        if let (label, Some(id)) = (item(date, 0), item(date, 1)) {
            page.fact("date", "", &self.date, label, id);
        }
        for (i, (name, price)) in self.items.iter().enumerate() {
            if let (label, Some(id)) = (item(first + i, 0), item(first + i, 1)) {
                let price = page.speaker.money(*price);
                page.fact("item_price", name, &price, label, id);
            }
        }
        if let (label, Some(id)) = (item(total, 0), item(total, 1)) {
            page.fact("total", "", &amount, label, id);
            let place = page.place(id);
            page.say_more(format!("The total of {amount} stands {place}."));
        }
        if let Some(id) = item(paid, 0) {
            let gold = page.speaker.label(if self.card { "Card" } else { "Cash" });
            page.fact("payment", "", gold, None, id);
        }
        let (paper, ink, surface) = (
            page.scheme.paper.name,
            page.scheme.ink.name,
            page.scheme.surface.name,
        );
        page.say(format!(
            "A till receipt of \"{}\" with {ink} print on {paper} paper, lying on a {surface} surface. \
             The name of the shop is centered at the top, followed by the address \"{}\", the date {} and the time {}.",
            self.shop, self.address, self.date, self.time
        ));
        let list: Vec<String> = self
            .items
            .iter()
            .take(4)
            .map(|(n, p)| format!("{n} for {}", page.speaker.money(*p)))
            .collect();
        page.caption_extra.insert(
            0,
            format!("Among the goods listed are {}.", list.join(", ")),
        );
    }
}
