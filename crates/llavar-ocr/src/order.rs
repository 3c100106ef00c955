//! The order in which an engine gives what it found.

/// From top to bottom; boxes whose top left corners lie within ten pixels of height, from left to right.
pub(crate) fn in_reading_order<T>(boxes: &mut [T], top_left: impl Fn(&T) -> [f64; 2]) {
    const SAME_ROW: f64 = 10.0;
    boxes.sort_by(|a, b| {
        let [a, b] = [top_left(a), top_left(b)];
        a[1].total_cmp(&b[1]).then(a[0].total_cmp(&b[0]))
    });
    for end in 1..boxes.len() {
        for at in (0..end).rev() {
            let [a, b] = [top_left(&boxes[at]), top_left(&boxes[at + 1])];
            if (b[1] - a[1]).abs() < SAME_ROW && b[0] < a[0] {
                boxes.swap(at, at + 1);
            } else {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_order() {
        let mut boxes = vec![[50.0, 4.0], [10.0, 9.0], [30.0, 30.0], [20.0, 8.0]];
        in_reading_order(&mut boxes, |corner| *corner);
        let order: Vec<f64> = boxes.iter().map(|corner| corner[0]).collect();
        assert_eq!(order, [10.0, 20.0, 50.0, 30.0]);
    }
}
