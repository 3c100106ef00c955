//! A line cut out of a picture, laid level at the height that a network reads.

use llavar_image::RgbImage;

use super::geometry::Point;

fn distance(a: Point, b: Point) -> f32 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

/// Width and height of a quadrilateral.
pub(crate) fn size(quad: &[Point; 4]) -> [f32; 2] {
    [
        distance(quad[0], quad[1]).max(distance(quad[3], quad[2])),
        distance(quad[0], quad[3]).max(distance(quad[1], quad[2])),
    ]
}

/// Corners from where the text begins: a line much higher than wide is read from its lower end.
pub(crate) fn upright(quad: [Point; 4]) -> [Point; 4] {
    let [width, height] = size(&quad);
    if height >= 1.5 * width {
        let [a, b, c, d] = quad;
        [b, c, d, a]
    } else {
        quad
    }
}

/// The same line read from its other end.
pub(crate) fn turned([a, b, c, d]: [Point; 4]) -> [Point; 4] {
    [c, d, a, b]
}

/// Pixels of a quadrilateral as the networks take them: blue, green, red, -1 to 1.
///
/// # Shapes
/// `[height, width, 3]`, of which the first `filled` columns show the quadrilateral and the rest is 0.
pub(crate) fn pixels(
    image: &RgbImage,
    quad: &[Point; 4],
    [height, width]: [usize; 2],
    filled: usize,
) -> Vec<f32> {
    let mut out = vec![0.0; height * width * 3];
    let [wide, high] = size(quad);
    // Where several pixels fall on one, their mean is taken.
    let samples =
        |pixels: f32, places: usize| ((pixels / places.max(1) as f32).round() as usize).clamp(1, 8);
    let (across, down) = (samples(wide, filled), samples(high, height));
    let scale = 2.0 / 255.0 / (across * down) as f32;
    let at = |a: Point, b: Point, part: f32| [0, 1].map(|i| a[i] + (b[i] - a[i]) * part);
    for (y, row) in out.chunks_exact_mut(width * 3).enumerate() {
        for sub in 0..down {
            let part = (y as f32 + (sub as f32 + 0.5) / down as f32) / height as f32;
            let (left, right) = (at(quad[0], quad[3], part), at(quad[1], quad[2], part));
            for (x, place) in row.chunks_exact_mut(3).take(filled).enumerate() {
                for sub in 0..across {
                    let part = (x as f32 + (sub as f32 + 0.5) / across as f32) / filled as f32;
                    let [r, g, b] = sample(image, at(left, right, part));
                    place[0] += b;
                    place[1] += g;
                    place[2] += r;
                }
            }
        }
        for place in &mut row[..filled * 3] {
            *place = *place * scale - 1.0;
        }
    }
    out
}

/// The colour at a point, between the four pixels around it; beyond the edge it is that of the edge.
fn sample(image: &RgbImage, point: Point) -> [f32; 3] {
    let axis = |place: f32, size: usize| {
        let place = (place - 0.5).clamp(0.0, (size - 1) as f32);
        let low = place as usize;
        (low, (low + 1).min(size - 1), place - low as f32)
    };
    let (x0, x1, fx) = axis(point[0], image.width);
    let (y0, y1, fy) = axis(point[1], image.height);
    let pixel = |x: usize, y: usize| -> &[u8] {
        let at = (y * image.width + x) * 3;
        &image.data[at..at + 3]
    };
    let (a, b, c, d) = (pixel(x0, y0), pixel(x1, y0), pixel(x0, y1), pixel(x1, y1));
    [0, 1, 2].map(|i| {
        let top = f32::from(a[i]) + (f32::from(b[i]) - f32::from(a[i])) * fx;
        let bottom = f32::from(c[i]) + (f32::from(d[i]) - f32::from(c[i])) * fx;
        top + (bottom - top) * fy
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red grows to the right, green downwards.
    fn ramp() -> RgbImage {
        let pixels = (0..40).flat_map(|y| (0..60).flat_map(move |x| [x * 4, y * 4, 9]));
        RgbImage::new(60, 40, pixels.collect()).unwrap()
    }

    #[test]
    fn an_upright_box_is_scaled() {
        let quad = [[10.0, 5.0], [30.0, 5.0], [30.0, 15.0], [10.0, 15.0]];
        let out = pixels(&ramp(), &quad, [20, 48], 40);
        for (y, row) in out.chunks_exact(48 * 3).enumerate() {
            for (x, place) in row.chunks_exact(3).enumerate() {
                if x >= 40 {
                    assert_eq!(place, [0.0; 3]);
                    continue;
                }
                let want = [
                    9.0,
                    (5.0 + (y as f32 + 0.5) / 2.0 - 0.5) * 4.0,
                    (10.0 + (x as f32 + 0.5) / 2.0 - 0.5) * 4.0,
                ];
                for (got, want) in place.iter().zip(want) {
                    assert!(
                        (got - (want / 127.5 - 1.0)).abs() < 1e-4,
                        "{x} {y}: {got} {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn lines_are_turned() {
        let tall = [[10.0, 5.0], [15.0, 5.0], [15.0, 35.0], [10.0, 35.0]];
        assert_eq!(upright(tall), [tall[1], tall[2], tall[3], tall[0]]);
        let out = pixels(&ramp(), &upright(tall), [5, 30], 30);
        // Read from the top right corner down: green grows to the right.
        assert!(out[1] < out[29 * 3 + 1] && (out[2] - out[29 * 3 + 2]).abs() < 1e-4);
        assert_eq!(turned(turned(tall)), tall);
        // Beyond the picture is its edge.
        let far = [
            [-50.0, -50.0],
            [-40.0, -50.0],
            [-40.0, -45.0],
            [-50.0, -45.0],
        ];
        assert!(
            pixels(&ramp(), &far, [4, 8], 8)
                .iter()
                .all(|x| x.is_finite())
        );
    }
}
