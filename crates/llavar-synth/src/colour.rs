//! Named colours and schemes whose texts can be read.

use crate::config::Palette;
use crate::rng::Rng;

/// A colour that captions can name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Colour {
    pub(crate) name: &'static str,
    pub(crate) rgb: [u8; 3],
}

const fn colour(name: &'static str, r: u8, g: u8, b: u8) -> Colour {
    Colour {
        name,
        rgb: [r, g, b],
    }
}

pub(crate) const WHITE: Colour = colour("white", 255, 255, 255);
pub(crate) const BLACK: Colour = colour("black", 18, 18, 20);
pub(crate) const GREY: Colour = colour("gray", 128, 130, 134);

const LIGHTS: [Colour; 9] = [
    WHITE,
    colour("ivory", 252, 249, 236),
    colour("cream", 250, 241, 215),
    colour("pale yellow", 253, 246, 190),
    colour("light gray", 232, 234, 237),
    colour("pale blue", 222, 236, 250),
    colour("mint", 221, 243, 229),
    colour("pale pink", 251, 226, 230),
    colour("beige", 238, 225, 203),
];

const DARKS: [Colour; 8] = [
    BLACK,
    colour("dark gray", 54, 57, 62),
    colour("navy blue", 22, 38, 84),
    colour("dark brown", 66, 42, 26),
    colour("dark green", 18, 70, 44),
    colour("maroon", 106, 20, 36),
    colour("deep purple", 64, 28, 96),
    colour("dark teal", 10, 74, 82),
];

const VIVIDS: [Colour; 8] = [
    colour("red", 200, 36, 40),
    colour("blue", 34, 96, 196),
    colour("green", 36, 138, 70),
    colour("orange", 226, 120, 22),
    colour("purple", 124, 66, 170),
    colour("teal", 16, 140, 144),
    colour("gold", 206, 160, 30),
    colour("pink", 214, 80, 138),
];

const SURFACES: [Colour; 8] = [
    colour("brown wooden", 150, 108, 70),
    colour("slate gray", 96, 106, 118),
    colour("dark blue", 44, 58, 92),
    colour("tan", 196, 172, 138),
    colour("charcoal", 58, 60, 64),
    colour("olive green", 108, 114, 74),
    colour("light gray", 204, 206, 208),
    colour("brick red", 142, 74, 60),
];

/// The colours of one picture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scheme {
    /// Page.
    pub(crate) paper: Colour,
    /// Text on the page.
    pub(crate) ink: Colour,
    /// Bands, headings, ornaments; readable on paper.
    pub(crate) accent: Colour,
    /// Text on the accent colour.
    pub(crate) on_accent: Colour,
    /// What lies behind the page.
    pub(crate) surface: Colour,
}

/// Perceived brightness, 0 to 255.
pub(crate) fn luma(c: [u8; 3]) -> f32 {
    0.299 * f32::from(c[0]) + 0.587 * f32::from(c[1]) + 0.114 * f32::from(c[2])
}

/// Mix of two colours, `t` of the second.
pub(crate) fn mix(a: [u8; 3], b: [u8; 3], t: f32) -> [u8; 3] {
    let part = |i: usize| (f32::from(a[i]) + (f32::from(b[i]) - f32::from(a[i])) * t) as u8;
    [part(0), part(1), part(2)]
}

/// White or black, whichever reads better on `c`.
pub(crate) fn on(c: Colour) -> Colour {
    if luma(c.rgb) < 150.0 { WHITE } else { BLACK }
}

impl Scheme {
    /// Draws a scheme. `bold` kinds (posters, covers, signs) may be light on dark in the full palette.
    pub(crate) fn draw(palette: Palette, bold: bool, rng: &mut Rng) -> Self {
        let surface = *rng.pick(&SURFACES);
        if palette == Palette::Mono {
            let (paper, ink) = (WHITE, BLACK);
            return Self {
                paper,
                ink,
                accent: BLACK,
                on_accent: WHITE,
                surface: WHITE,
            };
        }
        let inverse = bold && palette == Palette::Full && rng.chance(0.55);
        let (paper, ink) = if inverse {
            (*rng.pick(&DARKS), *rng.pick(&LIGHTS))
        } else {
            // Most paper is white.
            let paper = if rng.chance(0.3) {
                WHITE
            } else {
                *rng.pick(&LIGHTS)
            };
            (paper, *rng.pick(&DARKS))
        };
        let far = |c: &&Colour| (luma(c.rgb) - luma(paper.rgb)).abs() > 70.0;
        let accents: Vec<&Colour> = VIVIDS.iter().chain(&LIGHTS[1..4]).filter(far).collect();
        let accent = accents.get(rng.below(accents.len())).map_or(ink, |c| **c);
        Self {
            paper,
            ink,
            accent,
            on_accent: on(accent),
            surface,
        }
    }
}

/// `n` different vivid colours for the series of a chart, readable under white or black text.
pub(crate) fn series(palette: Palette, n: usize, rng: &mut Rng) -> Vec<Colour> {
    let mut colours = VIVIDS.to_vec();
    if palette == Palette::Mono {
        colours = vec![
            colour("dark gray", 70, 70, 70),
            GREY,
            colour("light gray", 200, 200, 200),
        ];
    } else {
        rng.shuffle(&mut colours);
    }
    colours.into_iter().cycle().take(n).collect()
}
