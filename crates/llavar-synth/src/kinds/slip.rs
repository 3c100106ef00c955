//! Long shop receipts as they are scanned: company, address over several lines, dates and numbers in
//! many forms, goods with codes and quantities, totals with taxes and rounding.

use crate::page::Space;
use crate::rng::Rng;
use crate::texts::letter;
use crate::words::{self, Speaker};

#[derive(Debug)]
pub(super) struct Slip {
    pub(super) company: Vec<String>,
    /// Lines between the name and the address, such as a register number.
    pub(super) registered: Vec<String>,
    pub(super) address: Vec<String>,
    /// Telephone, tax number, heading.
    pub(super) below: Vec<String>,
    /// Labels and values, or whole lines where the value is empty.
    pub(super) details: Vec<(String, String)>,
    pub(super) date: String,
    /// Lines of goods: left and right side.
    pub(super) goods: Vec<(String, String)>,
    /// Sums: label and amount.
    pub(super) sums: Vec<(String, String)>,
    /// Which of `sums` is the total.
    pub(super) total: usize,
    pub(super) footer: Vec<String>,
}

fn digits(n: usize, rng: &mut Rng) -> String {
    (0..n)
        .map(|_| char::from(b'0' + rng.below(10) as u8))
        .collect()
}

fn amount(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

/// A date as tills print it.
fn date(rng: &mut Rng) -> String {
    const MONTHS: [&str; 12] = [
        "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
    ];
    let (d, m, y) = (rng.int(1, 28), rng.int(1, 12), rng.int(2008, 2026));
    let month = MONTHS[m as usize - 1];
    match rng.below(10) {
        0..=2 => format!("{d:02}/{m:02}/{y}"),
        3 => format!("{d:02}-{m:02}-{y}"),
        4 => format!("{d:02}/{m:02}/{:02}", y % 100),
        5 => format!("{d:02} {month} {y}"),
        6 => format!("{d:02}-{month}-{y}"),
        7 => format!("{d:02}.{m:02}.{y}"),
        8 => format!("{y}-{m:02}-{d:02}"),
        _ => format!("{d}/{m}/{y}"),
    }
}

fn clock(rng: &mut Rng) -> String {
    let (h, m, s) = (rng.int(7, 22), rng.below(60), rng.below(60));
    match rng.below(3) {
        0 => format!("{h:02}:{m:02}:{s:02}"),
        1 => format!("{h:02}:{m:02}"),
        _ => format!(
            "{}:{m:02}:{s:02} {}",
            (h + 11) % 12 + 1,
            if h < 12 { "AM" } else { "PM" }
        ),
    }
}

impl Slip {
    fn company(rng: &mut Rng, speaker: &Speaker<'_>) -> Vec<String> {
        let texts = &speaker.config.texts;
        let name = match rng.below(5) {
            0 => words::made_up(rng),
            1 => format!("{} {}", words::made_up(rng), words::made_up(rng)),
            2 => speaker.name(&words::SURNAMES, rng),
            3 => texts.phrase(1, 2, rng),
            _ => format!(
                "{} {}",
                speaker.word(&words::NOUNS, rng),
                words::made_up(rng)
            ),
        };
        let trade = *rng.pick::<&str>(&[
            "",
            "",
            "Trading",
            "Enterprise",
            "Restaurant",
            "Hardware",
            "Book Store",
            "Mart",
            "Bakery",
            "Pharmacy",
            "Stationery",
            "Electrical",
            "Motor",
            "Furniture",
            "Seafood",
            "Holdings",
            "Supermarket",
            "Cafe",
            "Machinery",
            "Marketing",
            "Gift & Home",
        ]);
        let form = *rng.pick::<&str>(&[
            "SDN BHD",
            "SDN BHD",
            "SDN. BHD.",
            "Sdn Bhd",
            "(M) SDN BHD",
            "Ltd",
            "Inc.",
            "S/B",
            "",
            "",
            "Co.",
        ]);
        let branch = if rng.chance(0.1) {
            format!("({})", words::made_up(rng))
        } else {
            String::new()
        };
        let parts: Vec<&str> = [&name, trade, form, &branch]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect();
        let mut text = parts.join(" ");
        if rng.chance(0.85) {
            text = text.to_uppercase();
        }
        let words: Vec<&str> = text.split(' ').collect();
        if words.len() > 3 && rng.chance(0.25) {
            let (a, b) = words.split_at(words.len() / 2 + 1);
            return vec![a.join(" "), b.join(" ")];
        }
        vec![text]
    }

    fn address(rng: &mut Rng, speaker: &Speaker<'_>) -> Vec<String> {
        let house = match rng.below(5) {
            0 => format!("NO. {},", rng.int(1, 300)),
            1 => format!("NO.{}-{},", rng.int(1, 99), letter(rng)),
            2 => format!("LOT {},", rng.int(1, 9999)),
            3 => format!("{} & {},", rng.int(1, 90), rng.int(91, 180)),
            _ => format!("{},", rng.int(1, 999)),
        };
        let way = *rng.pick::<&str>(&[
            "JALAN",
            "JALAN",
            "JLN",
            "LORONG",
            "PERSIARAN",
            "STREET",
            "ROAD",
        ]);
        let number = match rng.below(4) {
            0 => format!(" {}/{}", rng.int(1, 30), rng.int(1, 40)),
            1 => format!(" {}", rng.int(1, 30)),
            2 => format!(" {}{}/{}", letter(rng), rng.int(1, 20), rng.int(1, 90)),
            _ => String::new(),
        };
        let name = words::made_up(rng);
        let street = if matches!(way, "STREET" | "ROAD") {
            format!("{name} {way}{number},")
        } else {
            format!("{way} {name}{number},")
        };
        let area = format!(
            "{} {},",
            rng.pick::<&str>(&[
                "TAMAN", "TAMAN", "BANDAR", "KAWASAN", "SEKSYEN", "PUSAT", "KAMPUNG"
            ]),
            words::made_up(rng)
        );
        let town = format!(
            "{} {}{}",
            digits(5, rng),
            if rng.chance(0.6) {
                words::made_up(rng)
            } else {
                speaker.word(&words::TOWNS, rng)
            },
            rng.pick::<&str>(&[",", ".", ""])
        );
        let state = *rng.pick::<&str>(&[
            "SELANGOR",
            "JOHOR",
            "SELANGOR.",
            "KUALA LUMPUR",
            "PERAK.",
            "W.P.",
            "",
        ]);
        let mut lines = match rng.below(3) {
            0 => vec![format!("{house} {street}"), area, town],
            1 => vec![format!("{house} {street}"), format!("{area} {town}")],
            _ => vec![house, street, area, town],
        };
        if !state.is_empty() {
            if rng.chance(0.5) {
                lines.push(state.to_owned());
            } else if let Some(last) = lines.last_mut() {
                *last = format!("{last} {state}");
            }
        }
        if rng.chance(0.85) {
            for line in &mut lines {
                *line = line.to_uppercase();
            }
        }
        lines
    }

    fn goods(rng: &mut Rng, speaker: &Speaker<'_>, most: usize) -> (Vec<(String, String)>, i64) {
        let texts = &speaker.config.texts;
        let (style, mut lines, mut sum) = (rng.below(4), Vec::new(), 0);
        for i in 0..1 + rng.below(most) {
            let name = if rng.chance(0.4) {
                speaker.word(&words::GOODS, rng)
            } else {
                texts.phrase(1, 4, rng)
            };
            let name: String = name.to_uppercase().chars().take(28).collect();
            let name = name.trim_end().to_owned();
            let (price, count) = (rng.int(50, 9999), rng.int(1, 6));
            let line = price * count;
            sum += line;
            match style {
                0 => lines.push((name, amount(line))),
                1 => {
                    lines.push((format!("{} {name}", digits(8, rng)), String::new()));
                    lines.push((format!("{count} x {}", amount(price)), amount(line)));
                }
                2 => lines.push((
                    format!("{count} {name}"),
                    format!("{} {}", amount(line), rng.pick::<&str>(&["SR", "S", "Z"])),
                )),
                _ => {
                    lines.push((format!("{}. {name}", i + 1), String::new()));
                    lines.push((format!("{count} PCS {}", amount(price)), amount(line)));
                }
            }
        }
        (lines, sum)
    }

    fn sums(rng: &mut Rng, sum: i64) -> (Vec<(String, String)>, usize) {
        let mut sums: Vec<(String, String)> = Vec::new();
        let tax = if rng.chance(0.5) {
            (sum * 6 + 50) / 100
        } else {
            0
        };
        let rounded = (sum + tax + 2) / 5 * 5;
        let mut push = |label: &str, cents: i64| sums.push((label.to_owned(), amount(cents)));
        if rng.chance(0.6) {
            push(
                rng.pick::<&str>(&[
                    "Sub Total",
                    "SUBTOTAL",
                    "Total Excl. GST:",
                    "Total Sales (Excluding GST) :",
                ]),
                sum,
            );
        }
        if rng.chance(0.2) {
            push("Discount", 0);
        }
        if tax > 0 {
            push(
                rng.pick::<&str>(&["GST 6%", "Total GST", "Add GST @ 6%", "TAX 6%"]),
                tax,
            );
        }
        if rounded != sum + tax || rng.chance(0.4) {
            push(
                rng.pick::<&str>(&["Rounding", "ROUNDING ADJ", "Rounding Adjustment :"]),
                (rounded - sum - tax).abs(),
            );
        }
        let total = sums.len();
        let label = *rng.pick::<&str>(&[
            "TOTAL",
            "Total:",
            "TOTAL RM",
            "TOTAL (RM):",
            "GRAND TOTAL",
            "NET TOTAL",
            "Total Amount",
            "Total Inclusive of GST",
            "ROUND TOTAL (RM):",
            "Amount Due",
            "TOTAL SALES",
            "Total (RM)",
        ]);
        let mark = *rng.pick::<&str>(&["", "", "", "", "RM", "RM ", "$"]);
        sums.push((label.to_owned(), format!("{mark}{}", amount(rounded))));
        if rng.chance(0.7) {
            let paid = rounded + rng.int(0, 20) * 100;
            sums.push((
                rng.pick::<&str>(&["CASH", "Cash", "VISA CARD", "PAID"])
                    .to_string(),
                amount(paid),
            ));
            sums.push((
                rng.pick::<&str>(&["CHANGE", "Change", "Change Due"])
                    .to_string(),
                amount(paid - rounded),
            ));
        }
        (sums, total)
    }

    pub(super) fn sample(rng: &mut Rng, speaker: &Speaker<'_>, space: &Space) -> Self {
        let texts = &speaker.config.texts;
        let few = space.few();
        let (mut registered, mut below, mut footer) = (Vec::new(), Vec::new(), Vec::new());
        let r = rng;
        let some = |p: f32, lines: &mut Vec<String>, line: String, r: &mut Rng| {
            if !few && r.chance(p) {
                lines.push(line);
            }
        };
        let line = format!("({}-{})", digits(6, r), letter(r));
        some(0.5, &mut registered, line, r);
        let line = format!("Co. Reg No: {}-{}", digits(6, r), letter(r));
        some(0.2, &mut registered, line, r);
        let line = format!("TEL : {}-{}", digits(2, r), digits(8, r));
        some(0.5, &mut below, line, r);
        let line = format!("FAX : {}-{}", digits(2, r), digits(7, r));
        some(0.2, &mut below, line, r);
        let line = format!("GST ID : {}", digits(12, r));
        some(0.4, &mut below, line, r);
        let line = (*r.pick(&[
            "TAX INVOICE",
            "CASH BILL",
            "RECEIPT",
            "INVOICE",
            "- TAX INVOICE -",
        ]))
        .to_owned();
        some(0.5, &mut below, line, r);
        let line = (*r.pick(&[
            "THANK YOU",
            "THANK YOU PLEASE COME AGAIN",
            "Thank you. Have a nice day!",
            "***** THANK YOU *****",
        ]))
        .to_owned();
        some(0.6, &mut footer, line, r);
        let line = (*r.pick(&[
            "GOODS SOLD ARE NOT RETURNABLE",
            "Goods sold are not refundable",
            "EXCHANGE WITHIN 7 DAYS",
        ]))
        .to_owned();
        some(0.4, &mut footer, line, r);
        let line = texts.phrase(3, 7, r);
        some(0.3, &mut footer, line, r);
        let day = date(r);
        let mut details: Vec<(String, String)> = Vec::new();
        let with_time = if r.chance(0.5) {
            format!("{day} {}", clock(r))
        } else {
            day.clone()
        };
        let label = *r.pick(&[
            "Date",
            "DATE:",
            "Date :",
            "Bill Date :",
            "Invoice Date :",
            "",
        ]);
        if label.is_empty() {
            details.push((with_time, String::new()));
        } else {
            details.push((label.to_owned(), with_time));
        }
        if !few {
            for (p, label, value) in [
                (0.7, "Bill No :", format!("{}{}", letter(r), digits(6, r))),
                (
                    0.4,
                    "Cashier:",
                    speaker.word(&words::FIRST_NAMES, r).to_uppercase(),
                ),
                (0.2, "Counter", format!("{:02}", r.int(1, 12))),
                (0.2, "Table", r.int(1, 40).to_string()),
                (0.2, "Member:", "".to_owned()),
            ] {
                if r.chance(p) {
                    details.push((label.to_owned(), value));
                }
            }
            r.shuffle(&mut details);
        }
        let room = space.lines(0.9, 20, 60);
        let (goods, sum) = Self::goods(r, speaker, if few { 1 } else { (room / 5).clamp(2, 9) });
        let (sums, total) = Self::sums(r, sum);
        Self {
            company: Self::company(r, speaker),
            registered,
            address: Self::address(r, speaker),
            below,
            details,
            date: day,
            goods,
            sums,
            total,
            footer,
        }
    }
}
