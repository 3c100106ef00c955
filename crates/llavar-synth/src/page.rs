//! A page being composed: drawing text, remembering where each word is, what can be asked about it,
//! and what the caption should say.

use zeno::{Command, Vector};

use crate::canvas::Canvas;
use crate::colour::{Colour, Scheme, mix};
use crate::config::{Detail, DocKind, Layout};
use crate::document::WordBox;
use crate::font::{Class, Face, FontSet};
use crate::rng::Rng;
use crate::words::Speaker;

/// Line height in em.
pub(crate) const LEADING: f32 = 1.32;

/// Where a line of text stands relative to its x.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Centre,
    Right,
}

/// How text is set.
#[derive(Clone, Copy)]
pub(crate) struct Type<'f> {
    pub(crate) face: &'f Face,
    /// Em in page px.
    pub(crate) px: f32,
    pub(crate) rgb: [u8; 3],
    /// Rightward lean, em per em of height.
    pub(crate) slant: f32,
    /// Width factor.
    pub(crate) stretch: f32,
    /// Irregularity of single letters: 0 for print, 1 for a hasty hand.
    pub(crate) wobble: f32,
}

impl<'f> Type<'f> {
    pub(crate) fn new(face: &'f Face, px: f32, colour: Colour) -> Self {
        Self {
            face,
            px,
            rgb: colour.rgb,
            slant: 0.0,
            stretch: 1.0,
            wobble: 0.0,
        }
    }

    pub(crate) fn px(self, px: f32) -> Self {
        Self { px, ..self }
    }

    pub(crate) fn colour(self, colour: Colour) -> Self {
        Self {
            rgb: colour.rgb,
            ..self
        }
    }

    /// Width of a line in em.
    pub(crate) fn em_width(&self, text: &str) -> f32 {
        text.chars()
            .filter_map(|c| self.face.glyph(c))
            .map(|g| g.advance)
            .sum::<f32>()
            * self.stretch
    }

    /// Width of a line in px.
    pub(crate) fn width(&self, text: &str) -> f32 {
        self.em_width(text) * self.px
    }

    /// The same type, small enough for `text` to be at most `width` px wide.
    pub(crate) fn fit(self, text: &str, width: f32) -> Self {
        let px = width / self.em_width(text).max(1e-3);
        self.px(self.px.min(px))
    }
}

/// One line or block of text on the page.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// The text, lines divided by `\n`.
    pub(crate) text: String,
    /// Left, top, right and bottom of the ink in page px.
    pub(crate) rect: [f32; 4],
    /// Words with their boxes in picture px.
    pub(crate) words: Vec<WordBox>,
    /// Letters with the corners of their places on the line in picture px; empty where no grid is told.
    pub(crate) letters: Vec<(char, [[f32; 2]; 4])>,
}

/// Index of an [`Item`].
pub(crate) type ItemId = usize;

/// Something that the page says and that can be asked for.
#[derive(Clone, Debug)]
pub(crate) struct Fact {
    pub(crate) field: &'static str,
    pub(crate) subject: String,
    pub(crate) gold: String,
    pub(crate) label: Option<ItemId>,
    pub(crate) quote: ItemId,
}

/// Room for content, known before it is drawn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    /// Page size in px.
    pub(crate) w: f32,
    pub(crate) h: f32,
    /// Smallest and largest em in px.
    pub(crate) px: [f32; 2],
    pub(crate) detail: Detail,
}

impl Space {
    /// How many lines of the smallest type fit into a share of the height; at least `low`.
    pub(crate) fn lines(&self, share: f32, low: usize, high: usize) -> usize {
        ((self.h * share / (self.px[0] * LEADING)) as usize).clamp(low, high)
    }

    /// True when only the few fields of a simple document are wanted.
    pub(crate) fn few(&self) -> bool {
        self.detail == Detail::Few
    }
}

/// The page.
pub(crate) struct Page<'a> {
    pub(crate) canvas: Canvas,
    pub(crate) rng: Rng,
    pub(crate) speaker: Speaker<'a>,
    pub(crate) fonts: &'a FontSet,
    pub(crate) kind: DocKind,
    pub(crate) scheme: Scheme,
    pub(crate) space: Space,
    pub(crate) items: Vec<Item>,
    pub(crate) facts: Vec<Fact>,
    /// Sentences of the caption, the ones that must stay first.
    pub(crate) caption: Vec<String>,
    pub(crate) caption_extra: Vec<String>,
}

impl<'a> Page<'a> {
    pub(crate) fn w(&self) -> f32 {
        self.space.w
    }

    pub(crate) fn h(&self) -> f32 {
        self.space.h
    }

    /// The shorter side, the measure of all ornaments.
    pub(crate) fn side(&self) -> f32 {
        self.space.w.min(self.space.h)
    }

    pub(crate) fn fixed(&self) -> bool {
        self.speaker.config.layout == Layout::Fixed
    }

    /// A type of one of the `classes` in the ink of the page.
    pub(crate) fn typ(&mut self, classes: &[Class]) -> Type<'a> {
        let face = self
            .fonts
            .pick(&self.speaker.config.fonts, classes, &mut self.rng);
        let mut typ = Type::new(face, self.space.px[1], self.scheme.ink);
        if face.is_stroked() {
            typ.wobble = self.rng.range(0.3, 1.0);
            typ.slant = self.rng.range(-0.05, 0.3);
            typ.stretch = self.rng.range(0.9, 1.1);
        } else if !self.fixed() {
            // Condensed, wide and leaning cuts widen the choice of faces.
            typ.stretch = *self.rng.pick(&[1.0, 1.0, 1.0, 0.86, 0.93, 1.08]);
            typ.slant = *self.rng.pick(&[0.0, 0.0, 0.0, 0.0, 0.0, 0.2]);
        }
        typ
    }

    /// A quantity that is `fixed` in fixed layouts and drawn otherwise.
    pub(crate) fn vary(&mut self, fixed: f32, low: f32, high: f32) -> f32 {
        if self.fixed() {
            fixed
        } else {
            self.rng.range(low, high)
        }
    }

    /// True at random in free layouts, never in fixed ones.
    pub(crate) fn maybe(&mut self, p: f32) -> bool {
        !self.fixed() && self.rng.chance(p)
    }

    /// Paints what lies behind the page: a lit surface, for some with a grain.
    pub(crate) fn surface(&mut self) {
        let surface = self.scheme.surface;
        if surface.name == "white" {
            return;
        }
        let (top, bottom) = (
            mix(surface.rgb, [255; 3], 0.1),
            mix(surface.rgb, [0; 3], 0.18),
        );
        self.canvas.gradient(top, bottom);
        if surface.name.contains("wooden") {
            let row = self.canvas.width as usize * 3;
            let (mut wave, plank) = (0.0_f32, self.canvas.height as usize / 5 + 1);
            for (y, line) in self.canvas.pixels.chunks_exact_mut(row).enumerate() {
                wave = wave * 0.8 + self.rng.around(0.05);
                let gain = if y % plank < 2 { 0.72 } else { 1.0 + wave };
                let gain = (gain * 256.0) as u32;
                line.iter_mut()
                    .for_each(|c| *c = ((u32::from(*c) * gain) >> 8).min(255) as u8);
            }
        }
    }

    /// Draws a sheet of paper with a soft shadow.
    pub(crate) fn sheet(&mut self, [x, y, w, h]: [f32; 4], rgb: [u8; 3]) {
        if self.scheme.surface.name != "white" {
            for i in 0..4 {
                let d = self.side() * 0.005 * i as f32;
                let shadow = [
                    [x + d, y + d],
                    [x + w + d, y + d],
                    [x + w + d, y + h + d],
                    [x + d, y + h + d],
                ];
                self.canvas.polygon(&shadow, [0; 3], 0.1);
            }
        }
        self.canvas.rect(x, y, w, h, rgb);
    }

    /// Draws one line with its baseline at `y`.
    pub(crate) fn line(
        &mut self,
        typ: &Type<'_>,
        x: f32,
        y: f32,
        align: Align,
        text: &str,
    ) -> ItemId {
        self.lines(typ, x, y, align, &[text.to_owned()])
    }

    /// Draws lines under each other as one item; `y` is the first baseline.
    pub(crate) fn lines(
        &mut self,
        typ: &Type<'_>,
        x: f32,
        y: f32,
        align: Align,
        lines: &[String],
    ) -> ItemId {
        let mut item = Item {
            text: lines.join("\n"),
            rect: [f32::MAX, f32::MAX, f32::MIN, f32::MIN],
            words: Vec::new(),
            letters: Vec::new(),
        };
        for (i, line) in lines.iter().enumerate() {
            let start = match align {
                Align::Left => x,
                Align::Centre => x - typ.width(line) / 2.0,
                Align::Right => x - typ.width(line),
            };
            self.words(typ, start, y + i as f32 * LEADING * typ.px, line, &mut item);
        }
        self.items.push(item);
        self.items.len() - 1
    }

    /// Draws text, wrapped, into a box of `[x, y, w, h]`, at most at the size of `typ` and smaller if
    /// it would not fit. Returns the item and the y below it.
    pub(crate) fn block(
        &mut self,
        typ: &Type<'_>,
        [x, y, w, h]: [f32; 4],
        align: Align,
        text: &str,
    ) -> (ItemId, f32) {
        let mut typ = *typ;
        let mut lines = wrap(&typ, text, w);
        for _ in 0..80 {
            let wide = lines.iter().any(|l| typ.width(l) > w);
            if !wide && lines.len() as f32 * LEADING * typ.px <= h {
                break;
            }
            typ.px *= 0.95;
            lines = wrap(&typ, text, w);
        }
        let at = match align {
            Align::Left => x,
            Align::Centre => x + w / 2.0,
            Align::Right => x + w,
        };
        let id = self.lines(&typ, at, y + typ.px, align, &lines);
        (id, y + lines.len() as f32 * LEADING * typ.px)
    }

    fn words(&mut self, typ: &Type<'_>, x: f32, y: f32, line: &str, item: &mut Item) {
        let mut pen = x;
        let space = typ.width(" ");
        let drift = self.rng.around(typ.wobble * 0.012);
        for word in line.split(' ').filter(|w| !w.is_empty()) {
            let mut path: Vec<Command> = Vec::new();
            let mut ink = [f32::MAX, f32::MAX, f32::MIN, f32::MIN];
            for letter in word.chars() {
                let Some(glyph) = typ.face.glyph(letter) else {
                    continue;
                };
                let (mut scale, mut turn, mut lift) = (1.0, 0.0, 0.0);
                if typ.wobble > 0.0 {
                    scale += self.rng.around(0.05 * typ.wobble);
                    turn = self.rng.around(0.06 * typ.wobble);
                    lift = self.rng.around(0.03 * typ.wobble) * typ.px + drift * (pen - x);
                }
                let bend = [self.rng_bend(typ), self.rng_bend(typ)];
                let mut place = |p: Vector| {
                    let (gx, gy) = (
                        p.x * scale + bend[0] * p.y * p.y,
                        p.y * scale + bend[1] * p.x,
                    );
                    let (gx, gy) = (gx - gy * turn, gy + gx * turn);
                    let px = pen + (gx * typ.stretch + gy * typ.slant) * typ.px;
                    let py = y - gy * typ.px + lift;
                    ink = [
                        ink[0].min(px),
                        ink[1].min(py),
                        ink[2].max(px),
                        ink[3].max(py),
                    ];
                    Vector::new(px, py)
                };
                path.extend(glyph.path.iter().map(|c| match *c {
                    Command::MoveTo(p) => Command::MoveTo(place(p)),
                    Command::LineTo(p) => Command::LineTo(place(p)),
                    Command::QuadTo(c, p) => Command::QuadTo(place(c), place(p)),
                    Command::CurveTo(a, b, p) => Command::CurveTo(place(a), place(b), place(p)),
                    Command::Close => Command::Close,
                }));
                let advance = glyph.advance * typ.stretch * typ.px;
                if self.speaker.config.grid > 0 {
                    let (top, bottom) = (y + lift - 0.78 * typ.px, y + lift + 0.22 * typ.px);
                    let corners = [
                        [pen, top],
                        [pen + advance, top],
                        [pen + advance, bottom],
                        [pen, bottom],
                    ];
                    item.letters
                        .push((letter, self.canvas.warp.corners(corners)));
                }
                pen += advance;
            }
            pen += space;
            if path.is_empty() {
                continue;
            }
            if typ.face.is_stroked() {
                let half = typ.px * 0.035;
                self.canvas.stroke(&path, half * 2.0, typ.rgb, 1.0);
                ink = [ink[0] - half, ink[1] - half, ink[2] + half, ink[3] + half];
            } else {
                self.canvas.fill(&path, typ.rgb, 1.0);
            }
            let [x0, y0, x1, y1] = ink;
            let corners = [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];
            let quad = self.canvas.warp.corners(corners);
            item.words.push(WordBox {
                text: word.to_owned(),
                quad,
            });
            let r = item.rect;
            item.rect = [r[0].min(x0), r[1].min(y0), r[2].max(x1), r[3].max(y1)];
        }
    }

    fn rng_bend(&mut self, typ: &Type<'_>) -> f32 {
        if typ.wobble > 0.0 {
            self.rng.around(0.08 * typ.wobble)
        } else {
            0.0
        }
    }

    /// Remembers a fact read from item `quote`, named by item `label`.
    pub(crate) fn fact(
        &mut self,
        field: &'static str,
        subject: &str,
        gold: &str,
        label: Option<ItemId>,
        quote: ItemId,
    ) {
        let (subject, gold) = (subject.to_owned(), gold.to_owned());
        self.facts.push(Fact {
            field,
            subject,
            gold,
            label,
            quote,
        });
    }

    /// Centre of an item in shares of the picture's width and height.
    pub(crate) fn centre(&self, id: ItemId) -> [f32; 2] {
        let Some(item) = self.items.get(id) else {
            return [0.5, 0.5];
        };
        let [x0, y0, x1, y1] = item.rect;
        let p = self
            .canvas
            .warp
            .apply(Vector::new((x0 + x1) / 2.0, (y0 + y1) / 2.0));
        [
            p.x / self.canvas.width as f32,
            p.y / self.canvas.height as f32,
        ]
    }

    /// Words for the place of an item.
    pub(crate) fn place(&self, id: ItemId) -> &'static str {
        let [mut x, y] = self.centre(id);
        if let (true, Some(item)) = (self.fixed(), self.items.get(id)) {
            // Where texts of any length begin at one place, that place is named and not their middle.
            x = item.rect[0] / self.w() + 0.05;
        }
        crate::phrase::place(x, y)
    }

    /// Adds a sentence that the caption must have.
    pub(crate) fn say(&mut self, sentence: String) {
        self.caption.push(sentence);
    }

    /// Adds a sentence for captions that are too short without it.
    pub(crate) fn say_more(&mut self, sentence: String) {
        self.caption_extra.push(sentence);
    }
}

/// Greedy line breaks.
pub(crate) fn wrap(typ: &Type<'_>, text: &str, width: f32) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if typ.width(line) + typ.width(" ") + typ.width(word) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
