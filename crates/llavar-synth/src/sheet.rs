//! Contact sheets: pictures in a grid with lines of text below each, for reports on real or synthetic
//! data. Text may be anything, such as the output of a model.

use llavar_image::resize;
use zeno::{Command, Vector};

use crate::canvas::Canvas;
use crate::document::Picture;
use crate::font::{Face, FontSet};
use crate::letters::{ELLIPSIS, face_for};
use crate::page::{LEADING, Type, wrap};

/// Most lines that one text, or the heading, is wrapped to.
const TEXT_LINES: usize = 6;
/// Most lines below one picture.
const CELL_LINES: usize = 24;
/// Characters looked at in one text.
const TEXT_CHARS: usize = 2000;
/// Most pixels and most rows of a sheet (a JPEG has at most 65,500 rows).
const MAX_PIXELS: u64 = 100_000_000;
const MAX_HEIGHT: u64 = 65_000;
/// Ink of the heading and of notes.
const INK: [u8; 3] = [18, 18, 20];

/// A picture of a sheet and what is written below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SheetCell {
    /// Any size; a picture without pixels, or with a wrong number of them, shows as a grey field.
    pub image: Picture,
    /// Texts from the top; at most 24 wrapped lines in all.
    pub lines: Vec<SheetLine>,
}

/// One text below a picture; wrapped to the width of the cell, cut with an ellipsis after 6 lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SheetLine {
    /// Any text; line breaks count as spaces, characters without a glyph show as boxes.
    pub text: String,
    /// Colour of the letters on white.
    pub rgb: [u8; 3],
    /// Whether the letters are bold.
    pub bold: bool,
}

/// A cell, measured.
struct Block<'c> {
    cell: &'c SheetCell,
    /// Size of the picture on the sheet, px.
    size: [usize; 2],
    /// Wrapped lines with their colour and weight.
    lines: Vec<(String, [u8; 3], bool)>,
}

/// Draws a white sheet with a heading and a grid of pictures, each with its texts below.
///
/// Every picture is scaled to `cell_width` px with its aspect kept (smaller where it would be more
/// than twice as high as the cell is wide), and a row is as high as its tallest cell. `columns` is
/// held to 1 to 16 (and to the number of cells), `cell_width` to 32 to 1024 px. A sheet has at most
/// 100 million pixels and 65,000 rows: what does not fit is left out, and the last line says so.
///
/// # Example
/// ```
/// use llavar_synth::{FontSet, SheetCell, SheetLine, SynthConfig, contact_sheet, generate};
/// let (config, fonts) = (SynthConfig::profile("quickstart")?, FontSet::embedded()?);
/// let image = generate(&config, &fonts, 0)?.image;
/// let line = SheetLine { text: "right".to_owned(), rgb: [0, 120, 40], bold: true };
/// let cell = SheetCell { image, lines: vec![line] };
/// let sheet = contact_sheet("Held-out pictures", &[cell.clone(), cell], 2, 256, &fonts);
/// assert!(sheet.width > 512 && sheet.height > 256);
/// # Ok::<(), llavar_synth::SynthError>(())
/// ```
pub fn contact_sheet(
    title: &str,
    cells: &[SheetCell],
    columns: usize,
    cell_width: u32,
    fonts: &FontSet,
) -> Picture {
    let columns = columns.clamp(1, 16).min(cells.len().max(1));
    let cell_width = cell_width.clamp(32, 1024) as usize;
    let gap = (cell_width / 16).max(6);
    let width = gap + columns * (cell_width + gap);
    let px = (cell_width as f32 / 21.0).clamp(11.0, 18.0);

    let lines = || cells.iter().flat_map(|c| &c.lines);
    let texts = |bold| lines().filter(move |l| l.bold == bold).map(|l| &*l.text);
    // The note about cells left out is plain ASCII.
    let ascii: String = (' '..='~').collect();
    let plain = face_for(fonts, false, texts(false).chain([&*ascii]));
    let bold = face_for(fonts, true, texts(true).chain([title]));
    let types = Types { plain, bold, px };

    let heading_type = types.of(true, INK).px(px * 1.5);
    let heading = lines_of(&heading_type, title, (width - 2 * gap) as f32);
    let blocks: Vec<Block<'_>> = cells
        .iter()
        .map(|cell| measure(cell, cell_width, &types))
        .collect();

    let text_height = |n: usize| (n as f32 * LEADING * px).ceil() as usize;
    let line_height = heading_type.px * LEADING;
    let mut height = gap;
    if !heading.is_empty() {
        height += (heading.len() as f32 * line_height).ceil() as usize + gap / 2;
    }
    let note_height = text_height(1) + gap;
    let limit = (MAX_PIXELS / width as u64).min(MAX_HEIGHT) as usize;
    let mut rows: Vec<(usize, &[Block<'_>])> = Vec::new();
    for row in blocks.chunks(columns) {
        let row_height = row
            .iter()
            .map(|b| b.size[1] + gap / 3 + text_height(b.lines.len()))
            .max()
            .unwrap_or(0)
            + gap;
        if height + row_height + note_height > limit {
            break;
        }
        rows.push((height, row));
        height += row_height;
    }
    let left_out = cells.len() - rows.iter().map(|r| r.1.len()).sum::<usize>();
    let note_at = height;
    if left_out > 0 {
        height += note_height;
    }

    let mut canvas = Canvas::new(width as u32, height as u32, [255; 3]);
    let mut y = gap as f32;
    for line in &heading {
        draw(&mut canvas, &heading_type, gap as f32, y, line);
        y += line_height;
    }
    for (top, row) in rows {
        for (column, block) in row.iter().enumerate() {
            let left = gap + column * (cell_width + gap);
            let margin = (cell_width - block.size[0]) / 2;
            paste(
                &mut canvas,
                &block.cell.image,
                left + margin,
                top,
                block.size,
            );
            let mut y = (top + block.size[1] + gap / 3) as f32;
            for (text, rgb, bold) in &block.lines {
                draw(&mut canvas, &types.of(*bold, *rgb), left as f32, y, text);
                y += LEADING * px;
            }
        }
    }
    if left_out > 0 {
        let note = format!("{left_out} more not shown");
        draw(
            &mut canvas,
            &types.of(false, INK),
            gap as f32,
            note_at as f32,
            &note,
        );
    }
    Picture {
        width: canvas.width,
        height: canvas.height,
        pixels: canvas.pixels,
    }
}

/// The two faces of a sheet and the size of its texts.
struct Types {
    plain: Face,
    bold: Face,
    px: f32,
}

impl Types {
    fn of(&self, bold: bool, rgb: [u8; 3]) -> Type<'_> {
        Type {
            face: if bold { &self.bold } else { &self.plain },
            px: self.px,
            rgb,
            slant: 0.0,
            stretch: 1.0,
            wobble: 0.0,
        }
    }
}

/// Scales the picture of a cell and wraps its texts.
fn measure<'c>(cell: &'c SheetCell, cell_width: usize, types: &Types) -> Block<'c> {
    let (w, h) = (u64::from(cell.image.width), u64::from(cell.image.height));
    let size = if is_sound(&cell.image) {
        let wide = cell_width as u64;
        let full = (h * wide + w / 2) / w;
        if full <= 2 * wide {
            [cell_width, full.max(1) as usize]
        } else {
            [(w * 2 * wide / h).max(1) as usize, 2 * cell_width]
        }
    } else {
        [cell_width, cell_width / 2]
    };
    let mut lines = Vec::new();
    for line in &cell.lines {
        let typ = types.of(line.bold, line.rgb);
        for text in lines_of(&typ, &line.text, cell_width as f32) {
            lines.push((text, line.rgb, line.bold));
        }
        if lines.len() > CELL_LINES {
            lines.truncate(CELL_LINES);
            if let Some((last, ..)) = lines.last_mut() {
                let typ = types.of(line.bold, line.rgb);
                mark_cut(&typ, last, cell_width as f32);
            }
            break;
        }
    }
    Block { cell, size, lines }
}

/// True if the picture has pixels, and as many as its size says.
fn is_sound(image: &Picture) -> bool {
    let pixels = u64::from(image.width) * u64::from(image.height);
    pixels > 0 && pixels.checked_mul(3) == Some(image.pixels.len() as u64)
}

/// Wraps a text, breaking words wider than a line, and cuts it after [`TEXT_LINES`].
fn lines_of(typ: &Type<'_>, text: &str, width: f32) -> Vec<String> {
    let end = text.char_indices().nth(TEXT_CHARS).map(|(at, _)| at);
    let seen = end.and_then(|end| text.get(..end)).unwrap_or(text);
    let mut pieces = String::with_capacity(seen.len() + 16);
    let mut used = 0.0;
    for code in seen.chars() {
        if code.is_whitespace() {
            pieces.push(' ');
            used = 0.0;
            continue;
        }
        let advance = typ.face.glyph(code).map_or(0.0, |g| g.advance) * typ.px;
        if used > 0.0 && used + advance > width {
            pieces.push(' ');
            used = 0.0;
        }
        pieces.push(code);
        used += advance;
    }
    let mut lines = wrap(typ, &pieces, width);
    if lines.len() > TEXT_LINES || end.is_some() {
        lines.truncate(TEXT_LINES);
        if let Some(last) = lines.last_mut() {
            mark_cut(typ, last, width);
        }
    }
    lines
}

/// Ends a line with an ellipsis, taking letters away until it fits.
fn mark_cut(typ: &Type<'_>, line: &mut String, width: f32) {
    if line.ends_with(ELLIPSIS) {
        return;
    }
    let mark = typ.width(ELLIPSIS.encode_utf8(&mut [0; 4]));
    while typ.width(line) + mark > width && line.pop().is_some() {}
    line.truncate(line.trim_end().len());
    line.push(ELLIPSIS);
}

/// Draws a line of text with the top of its line box at `y`.
fn draw(canvas: &mut Canvas, typ: &Type<'_>, x: f32, y: f32, text: &str) {
    let baseline = y + typ.px;
    let mut pen = x;
    let mut path: Vec<Command> = Vec::new();
    for glyph in text.chars().filter_map(|c| typ.face.glyph(c)) {
        let at = |p: Vector| Vector::new(pen + p.x * typ.px, baseline - p.y * typ.px);
        path.extend(glyph.path.iter().map(|c| match *c {
            Command::MoveTo(p) => Command::MoveTo(at(p)),
            Command::LineTo(p) => Command::LineTo(at(p)),
            Command::QuadTo(c, p) => Command::QuadTo(at(c), at(p)),
            Command::CurveTo(a, b, p) => Command::CurveTo(at(a), at(b), at(p)),
            Command::Close => Command::Close,
        }));
        pen += glyph.advance * typ.px;
    }
    if !path.is_empty() {
        canvas.fill(&path, typ.rgb, 1.0);
    }
}

/// Puts a picture at `left`, `top`, scaled to `size`, with a thin edge that shows where white ends.
fn paste(canvas: &mut Canvas, image: &Picture, left: usize, top: usize, [w, h]: [usize; 2]) {
    let scaled = is_sound(image)
        .then(|| resize(&image.to_rgb(), w, h).ok())
        .flatten();
    let [x, y, right, bottom] = [left, top, left + w, top + h].map(|v| v as f32);
    match scaled {
        Some(scaled) => {
            let stride = canvas.width as usize * 3;
            let rows = canvas.pixels.chunks_exact_mut(stride).skip(top);
            for (to, from) in rows.zip(scaled.data.chunks_exact(w * 3)) {
                if let Some(to) = to.get_mut(left * 3..(left + w) * 3) {
                    to.copy_from_slice(from);
                }
            }
        }
        None => canvas.rect(x, y, right - x, bottom - y, [225; 3]),
    }
    let edge = [x - 0.5, y - 0.5, right - x + 1.0, bottom - y + 1.0];
    canvas.frame(edge, 0.0, 1.0, [200; 3]);
}
