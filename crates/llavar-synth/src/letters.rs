//! Letters for text from outside: a face that has something to draw for every character, whatever
//! its script. Generated documents never need it, their texts keep to the letters of their fonts.

use std::collections::HashMap;

use zeno::{Command, PathBuilder};

use crate::font::{Class, Face, FontSet, Glyph, letter};

/// Mark of a text that was cut.
pub(crate) const ELLIPSIS: char = '\u{2026}';

/// A face with a glyph for every character of `texts`, for the space and the [`ELLIPSIS`].
///
/// Letters come from the set's first sans (or bold sans) face, the rest of Unicode as far as it goes
/// from DejaVu Sans, and what that lacks is a hollow box. Nothing is shaped: characters stand one
/// after the other from the left.
pub(crate) fn face_for<'t>(
    fonts: &FontSet,
    bold: bool,
    texts: impl Iterator<Item = &'t str>,
) -> Face {
    let class = if bold { Class::Bold } else { Class::Sans };
    let own = fonts.of_class(class);
    let bytes = if bold {
        dejavu::sans::bold()
    } else {
        dejavu::sans::regular()
    };
    let wide = ttf_parser::Face::parse(bytes, 0).ok();
    let mut glyphs = HashMap::new();
    for code in texts.flat_map(str::chars).chain([' ', ELLIPSIS]) {
        glyphs.entry(code).or_insert_with(|| {
            if is_invisible(code) {
                return Glyph {
                    advance: 0.0,
                    path: Vec::new(),
                };
            }
            own.and_then(|f| f.glyph(code).cloned())
                .or_else(|| wide.as_ref().and_then(|f| letter(f, code)))
                .unwrap_or_else(missing)
        });
    }
    Face {
        name: "sheet".to_owned(),
        class,
        glyphs,
    }
}

/// Characters that direct other characters and have no ink: control codes, joiners, direction marks,
/// variation selectors, tags.
fn is_invisible(code: char) -> bool {
    code.is_control()
        || matches!(code, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// A hollow box.
fn missing() -> Glyph {
    let mut path: Vec<Command> = Vec::new();
    path.add_rect([0.08, 0.0], 0.44, 0.7);
    // The inner edge runs the other way round, so that it is left out of the fill.
    path.move_to([0.14, 0.06]);
    path.line_to([0.14, 0.64]);
    path.line_to([0.46, 0.64]);
    path.line_to([0.46, 0.06]);
    path.close();
    Glyph { advance: 0.6, path }
}
