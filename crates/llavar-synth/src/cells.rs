//! The letters of a picture as a grid, one a cell.

use llavar_image::{Placement, Rect};

use crate::{document::Picture, page::Item};

/// What stands for a cell without a letter.
const BLANK: char = ' ';
/// Side of a cell, px: the stride of the slow path. How far a small picture is enlarged depends on the square's side.
const CELL: usize = 32;

/// Where the picture lies in the square of `side * side` cells that a model sees, fitted or padded on both sides.
pub(crate) fn placement(picture: &Picture, fit: bool, side: u32) -> Placement {
    if fit {
        return Placement::fit(&picture.to_rgb(), CELL * side as usize);
    }
    let (width, height) = (picture.width as usize, picture.height as usize);
    let side = width.max(height);
    let at = |left, top| Rect {
        left,
        top,
        width,
        height,
    };
    Placement {
        source: at(0, 0),
        target: at((side - width) / 2, (side - height) / 2),
        size: side,
    }
}

/// `side * side` characters, row by row: the letter on whose place the centre of each cell falls, a blank where there
/// is none. The grid covers the square of the placement.
pub(crate) fn cells(items: &[Item], place: &Placement, side: u32) -> String {
    let side = side as usize;
    let step = place.size as f32 / side as f32;
    let mut grid = vec![BLANK; side * side];
    for (letter, corners) in items.iter().flat_map(|item| &item.letters) {
        let corners = corners.map(|corner| place.map(corner));
        let range = |axis: usize| {
            let values = corners.map(|corner| corner[axis]);
            let low = values.into_iter().fold(f32::MAX, f32::min) / step - 0.5;
            let high = values.into_iter().fold(f32::MIN, f32::max) / step - 0.5;
            // Nothing of a line lies outside the picture but the page that it was drawn on.
            let bound = |value: f32| value.clamp(0.0, side as f32) as usize;
            bound(low.ceil())..bound((high.floor() + 1.0).max(0.0))
        };
        for row in range(1) {
            for column in range(0) {
                let centre = [column, row].map(|cell| (cell as f32 + 0.5) * step);
                if inside(corners, centre) {
                    grid[row * side + column] = *letter;
                }
            }
        }
    }
    grid.into_iter().collect()
}

/// Whether a point is within a convex quadrilateral whose corners go clockwise.
fn inside(corners: [[f32; 2]; 4], [x, y]: [f32; 2]) -> bool {
    (0..4).all(|i| {
        let ([ax, ay], [bx, by]) = (corners[i], corners[(i + 1) % 4]);
        (bx - ax) * (y - ay) - (by - ay) * (x - ax) >= 0.0
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{DocKind, FontSet, SynthConfig};

    fn letter(letter: char, x0: f32, y0: f32, x1: f32, y1: f32) -> Item {
        Item {
            text: letter.to_string(),
            rect: [x0, y0, x1, y1],
            words: Vec::new(),
            letters: vec![(letter, [[x0, y0], [x1, y0], [x1, y1], [x0, y1]])],
        }
    }

    /// Cells over a padded white picture.
    fn padded(items: &[Item], width: u32, height: u32, side: u32) -> String {
        cells(items, &placement(&white(width, height), false, side), side)
    }

    fn white(width: u32, height: u32) -> Picture {
        Picture {
            width,
            height,
            pixels: vec![255; (width * height * 3) as usize],
        }
    }

    /// The text of a receipt on white: fitted, its letters take all cells.
    #[test]
    fn a_fitted_grid_lies_over_the_content() {
        let mut page = white(400, 400);
        for y in 100..180 {
            for x in 40..360 {
                let dark = (x / 8 + y / 8) % 2 == 0;
                let at = ((y * 400 + x) * 3) as usize;
                page.pixels[at..at + 3].fill(if dark { 0 } else { 255 });
            }
        }
        let items = [
            letter('A', 40.0, 100.0, 200.0, 180.0),
            letter('b', 200.0, 100.0, 360.0, 180.0),
        ];
        assert_eq!(
            cells(&items, &placement(&page, false, 4), 4),
            "    AAbb        "
        );
        assert_eq!(
            cells(&items, &placement(&page, true, 16), 4),
            "    AAbbAAbb    "
        );
    }

    #[test]
    fn a_letter_takes_the_cells_whose_centres_it_covers() {
        let items = [
            letter('A', 0.0, 0.0, 26.0, 10.0),
            letter('b', 30.0, 30.0, 40.0, 40.0),
        ];
        assert_eq!(padded(&items, 40, 40, 4), "AAA            b");
        assert_eq!(padded(&items, 40, 40, 2), "A  b");
    }

    #[test]
    fn padding_moves_the_grid_as_it_moves_the_picture() {
        // 40 x 20 is padded with 10 px above and below.
        let items = [letter('A', 0.0, 0.0, 20.0, 10.0)];
        assert_eq!(padded(&items, 40, 20, 4), "    AA          ");
        // 20 x 40 is padded with 10 px on the left and on the right.
        assert_eq!(padded(&items, 20, 40, 4), " AA             ");
    }

    #[test]
    fn what_lies_outside_the_picture_is_left_out() {
        let items = [
            letter('A', -30.0, -30.0, -5.0, 90.0),
            letter('B', 35.0, 35.0, 400.0, 400.0),
        ];
        assert_eq!(padded(&items, 40, 40, 4), "               B");
    }

    #[test]
    fn a_leaning_place_is_no_rectangle() {
        let mut item = letter('A', 0.0, 0.0, 40.0, 40.0);
        item.letters[0].1 = [[20.0, -21.0], [61.0, 20.0], [20.0, 61.0], [-21.0, 20.0]];
        assert_eq!(padded(&[item], 40, 40, 4), "AAAAAAAAAAAAAAAA");
        let mut item = letter('A', 0.0, 0.0, 40.0, 40.0);
        item.letters[0].1 = [[20.0, 0.0], [40.0, 20.0], [20.0, 40.0], [0.0, 20.0]];
        assert_eq!(padded(&[item], 40, 40, 4), " AA AAAAAAAA AA ");
    }

    /// The grid tells the letters that are printed: of large print every word is spelled along its row.
    #[test]
    fn a_grid_spells_what_is_printed() {
        let mut config = SynthConfig::profile("default").unwrap();
        config.kinds = vec![DocKind::Word];
        config.damage.share = 0.0;
        config.grid = 24;
        let fonts = FontSet::embedded().unwrap();
        let mut spelled = 0;
        for index in 0..40 {
            let document = crate::generate(&config, &fonts, index).unwrap();
            let cells = document.cells.as_deref().unwrap();
            assert_eq!(cells.chars().count(), 24 * 24);
            let printed = &document.transcription;
            assert!(
                cells.chars().all(|c| c == ' ' || printed.contains(c)),
                "{index}: {printed:?} {cells:?}"
            );
            // A row through the middle of the text, each letter once.
            let rows: Vec<Vec<char>> = cells
                .chars()
                .collect::<Vec<_>>()
                .chunks(24)
                .map(<[char]>::to_vec)
                .collect();
            let mut middle: Vec<char> = rows[12].iter().copied().filter(|c| *c != ' ').collect();
            middle.dedup();
            let mut letters: Vec<char> = printed.chars().filter(|c| *c != ' ').collect();
            letters.dedup();
            spelled += usize::from(middle == letters);
        }
        // Long words have letters narrower than a cell.
        assert!(spelled >= 20, "{spelled} of 40");
        config.grid = 0;
        assert!(crate::generate(&config, &fonts, 0).unwrap().cells.is_none());
    }
}
