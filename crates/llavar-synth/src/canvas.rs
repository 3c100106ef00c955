//! The drawing surface: paths are mapped through the page's warp, turned into coverage masks by
//! `zeno` and blended onto an RGB8 buffer. Warping the outlines and not the pixels keeps text crisp,
//! costs no resampling and gives exact word boxes.

use zeno::{Cap, Command, Join, Mask, PathBuilder, Scratch, Stroke, Vector};

/// A projective map of the plane, from page px to picture px.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Warp([f32; 9]);

impl Warp {
    pub(crate) const IDENTITY: Self = Self([1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);

    /// The map of the rectangle `w` x `h` onto a quadrilateral (clockwise from the top left).
    /// Source: Heckbert, "Fundamentals of Texture Mapping and Image Warping", 1989, section 2.2.3.
    pub(crate) fn onto(w: f32, h: f32, quad: [[f32; 2]; 4]) -> Self {
        let [[x0, y0], [x1, y1], [x2, y2], [x3, y3]] = quad;
        let (dx1, dx2, sx) = (x1 - x2, x3 - x2, x0 - x1 + x2 - x3);
        let (dy1, dy2, sy) = (y1 - y2, y3 - y2, y0 - y1 + y2 - y3);
        let det = dx1 * dy2 - dx2 * dy1;
        let det = if det.abs() < 1e-6 { 1e-6 } else { det };
        let (g, i) = ((sx * dy2 - dx2 * sy) / det, (dx1 * sy - sx * dy1) / det);
        let (a, b) = (x1 - x0 + g * x1, x3 - x0 + i * x3);
        let (d, e) = (y1 - y0 + g * y1, y3 - y0 + i * y3);
        Self([a / w, b / h, x0, d / w, e / h, y0, g / w, i / h, 1.0])
    }

    /// Where the corners of a box of the page are in the picture.
    pub(crate) fn corners(&self, corners: [[f32; 2]; 4]) -> [[f32; 2]; 4] {
        corners.map(|[x, y]| {
            let p = self.apply(Vector::new(x, y));
            [p.x, p.y]
        })
    }

    /// Where a point of the page is in the picture.
    pub(crate) fn apply(&self, p: Vector) -> Vector {
        let m = &self.0;
        let z = m[6] * p.x + m[7] * p.y + m[8];
        Vector::new(
            (m[0] * p.x + m[1] * p.y + m[2]) / z,
            (m[3] * p.x + m[4] * p.y + m[5]) / z,
        )
    }
}

/// An RGB8 picture being drawn.
pub(crate) struct Canvas {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) pixels: Vec<u8>,
    pub(crate) warp: Warp,
    scratch: Scratch,
    mask: Vec<u8>,
    mapped: Vec<Command>,
}

impl Canvas {
    /// A picture of one colour.
    pub(crate) fn new(width: u32, height: u32, rgb: [u8; 3]) -> Self {
        let pixels = rgb.repeat(width as usize * height as usize);
        let (scratch, warp) = (Scratch::new(), Warp::IDENTITY);
        Self {
            width,
            height,
            pixels,
            warp,
            scratch,
            mask: Vec::new(),
            mapped: Vec::new(),
        }
    }

    /// Fills the picture with a vertical run from one colour to another, unwarped.
    pub(crate) fn gradient(&mut self, top: [u8; 3], bottom: [u8; 3]) {
        let (row, height) = (self.width as usize * 3, self.height.max(2));
        for (y, line) in self.pixels.chunks_exact_mut(row).enumerate() {
            let rgb = crate::colour::mix(top, bottom, y as f32 / (height - 1) as f32);
            for px in line.chunks_exact_mut(3) {
                px.copy_from_slice(&rgb);
            }
        }
    }

    /// Fills a path given in page px.
    pub(crate) fn fill(&mut self, path: &[Command], rgb: [u8; 3], alpha: f32) {
        self.paint(path, None, rgb, alpha);
    }

    /// Draws a pen line of `width` px along a path given in page px.
    pub(crate) fn stroke(&mut self, path: &[Command], width: f32, rgb: [u8; 3], alpha: f32) {
        self.paint(path, Some(width), rgb, alpha);
    }

    /// Fills an upright rectangle.
    pub(crate) fn rect(&mut self, x: f32, y: f32, w: f32, h: f32, rgb: [u8; 3]) {
        let mut path: Vec<Command> = Vec::with_capacity(5);
        path.add_rect([x, y], w, h);
        self.fill(&path, rgb, 1.0);
    }

    /// Fills a rectangle with round corners.
    pub(crate) fn round_rect(&mut self, [x, y, w, h]: [f32; 4], radius: f32, rgb: [u8; 3]) {
        let mut path: Vec<Command> = Vec::new();
        path.add_round_rect([x, y], w, h, radius, radius);
        self.fill(&path, rgb, 1.0);
    }

    /// Draws the edge of a rectangle with round corners (0 for sharp ones).
    pub(crate) fn frame(&mut self, [x, y, w, h]: [f32; 4], radius: f32, width: f32, rgb: [u8; 3]) {
        let mut path: Vec<Command> = Vec::new();
        if radius > 0.0 {
            path.add_round_rect([x, y], w, h, radius, radius);
        } else {
            path.add_rect([x, y], w, h);
        }
        self.stroke(&path, width, rgb, 1.0);
    }

    /// Draws a straight line.
    pub(crate) fn line(&mut self, from: [f32; 2], to: [f32; 2], width: f32, rgb: [u8; 3]) {
        self.polyline(&[from, to], width, rgb);
    }

    /// Draws a line through points.
    pub(crate) fn polyline(&mut self, points: &[[f32; 2]], width: f32, rgb: [u8; 3]) {
        let mut path: Vec<Command> = Vec::with_capacity(points.len());
        for (i, &p) in points.iter().enumerate() {
            if i == 0 {
                path.move_to(p);
            } else {
                path.line_to(p);
            }
        }
        self.stroke(&path, width, rgb, 1.0);
    }

    /// Fills a polygon.
    pub(crate) fn polygon(&mut self, points: &[[f32; 2]], rgb: [u8; 3], alpha: f32) {
        let mut path: Vec<Command> = Vec::with_capacity(points.len() + 1);
        for (i, &p) in points.iter().enumerate() {
            if i == 0 {
                path.move_to(p);
            } else {
                path.line_to(p);
            }
        }
        path.close();
        self.fill(&path, rgb, alpha);
    }

    /// Fills a circle.
    pub(crate) fn circle(&mut self, x: f32, y: f32, radius: f32, rgb: [u8; 3], alpha: f32) {
        let mut path: Vec<Command> = Vec::new();
        path.add_circle([x, y], radius);
        self.fill(&path, rgb, alpha);
    }

    /// Fills a sector of a circle between two angles (radians, clockwise from the top).
    pub(crate) fn sector(&mut self, centre: [f32; 2], r: f32, from: f32, to: f32, rgb: [u8; 3]) {
        let steps = ((to - from).abs() * 24.0).ceil().max(2.0) as usize;
        let mut points = vec![centre];
        points.extend((0..=steps).map(|i| {
            let angle = from + (to - from) * i as f32 / steps as f32;
            [centre[0] + r * angle.sin(), centre[1] - r * angle.cos()]
        }));
        self.polygon(&points, rgb, 1.0);
    }

    fn paint(&mut self, path: &[Command], stroke: Option<f32>, rgb: [u8; 3], alpha: f32) {
        let warp = self.warp;
        self.mapped.clear();
        self.mapped.extend(path.iter().map(|c| match *c {
            Command::MoveTo(p) => Command::MoveTo(warp.apply(p)),
            Command::LineTo(p) => Command::LineTo(warp.apply(p)),
            Command::QuadTo(c, p) => Command::QuadTo(warp.apply(c), warp.apply(p)),
            Command::CurveTo(a, b, p) => {
                Command::CurveTo(warp.apply(a), warp.apply(b), warp.apply(p))
            }
            Command::Close => Command::Close,
        }));
        let mut mask = Mask::with_scratch(&self.mapped[..], &mut self.scratch);
        if let Some(width) = stroke {
            let mut style = Stroke::new(width.max(0.6));
            style.join(Join::Round).cap(Cap::Round);
            mask.style(style);
        }
        let (buffer, mut size) = (&mut self.mask, (0, 0));
        mask.inspect(|format, w, h| {
            buffer.clear();
            buffer.resize(format.buffer_size(w, h), 0);
            size = (w as usize, h as usize);
        });
        let place = mask.render_into(buffer, None);
        let opacity = (alpha.clamp(0.0, 1.0) * 256.0) as u32;
        let (left, top) = (place.left as i64, place.top as i64);
        let x0 = (-left).clamp(0, size.0 as i64) as usize;
        let x1 = (i64::from(self.width) - left).clamp(0, size.0 as i64) as usize;
        let y0 = (-top).clamp(0, size.1 as i64) as usize;
        let y1 = (i64::from(self.height) - top).clamp(0, size.1 as i64) as usize;
        if x0 >= x1 {
            return;
        }
        for y in y0..y1 {
            let cover = &self.mask[y * size.0 + x0..y * size.0 + x1];
            let start =
                ((top + y as i64) as usize * self.width as usize + (left + x0 as i64) as usize) * 3;
            let row = &mut self.pixels[start..start + cover.len() * 3];
            for (px, &c) in row.chunks_exact_mut(3).zip(cover) {
                let a = (u32::from(c) * opacity) >> 8;
                if a >= 255 {
                    px.copy_from_slice(&rgb);
                } else if a > 0 {
                    for i in 0..3 {
                        let old = u32::from(px[i]);
                        // old + (new - old) * a / 255, rounded, in whole numbers.
                        px[i] = ((old * (255 - a) + u32::from(rgb[i]) * a + 127) / 255) as u8;
                    }
                }
            }
        }
    }
}
