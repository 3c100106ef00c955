//! Comma- and tab-separated files with quotes as in RFC 4180.

/// Picture and caption of every row, by the names of the first row.
pub(super) fn records(
    text: &str,
    image_keys: &[&str],
    text_keys: &[&str],
) -> Result<Vec<(String, String)>, String> {
    let first = text.lines().next().unwrap_or_default();
    let separator = ['\t', ';', ',']
        .into_iter()
        .find(|separator| first.contains(*separator))
        .ok_or("it is neither JSON nor CSV: the first row has no comma or tab")?;
    let mut rows = rows(text, separator)?.into_iter();
    let head: Vec<String> = rows
        .next()
        .unwrap_or_default()
        .iter()
        .map(|name| name.trim().to_lowercase())
        .collect();
    let column = |keys: &[&str]| {
        keys.iter()
            .find_map(|key| head.iter().position(|name| name == key))
            .ok_or_else(|| format!("the first row names no column {}", keys.join(", ")))
    };
    let (image, caption) = (column(image_keys)?, column(text_keys)?);
    let cell = |row: &[String], i: usize| row.get(i).cloned().unwrap_or_default();
    rows.map(|row| {
        // A separator in a text without quotes would cut it short.
        if row.len() > head.len() && row[head.len()..].iter().any(|c| !c.trim().is_empty()) {
            return Err(format!(
                "the row of {} has {} cells, the first row has {}: put texts with a `{separator}` in quotes",
                cell(&row, image),
                row.len(),
                head.len()
            ));
        }
        Ok((cell(&row, image), cell(&row, caption)))
    })
    .collect()
}

fn rows(text: &str, separator: char) -> Result<Vec<Vec<String>>, String> {
    let mut rows = Vec::new();
    let (mut row, mut cell) = (Vec::new(), String::new());
    let mut chars = text.chars().peekable();
    let mut line = 1;
    while let Some(c) = chars.next() {
        match c {
            // A quote is one only at the beginning of a cell: captions have inches and quotations.
            '"' if cell.is_empty() => {
                let begun = line;
                loop {
                    match chars.next() {
                        Some('"') if chars.peek() == Some(&'"') => {
                            chars.next();
                            cell.push('"');
                        }
                        Some('"') => break,
                        Some(c) => {
                            line += usize::from(c == '\n');
                            cell.push(c);
                        }
                        None => return Err(format!("line {begun}: a quote is not closed")),
                    }
                }
            }
            '\r' if chars.peek() == Some(&'\n') => {}
            '\n' => {
                line += 1;
                row.push(std::mem::take(&mut cell));
                rows.push(std::mem::take(&mut row));
            }
            c if c == separator => row.push(std::mem::take(&mut cell)),
            c => cell.push(c),
        }
    }
    if !cell.is_empty() || !row.is_empty() {
        row.push(cell);
        rows.push(row);
    }
    rows.retain(|row| row.iter().any(|cell| !cell.trim().is_empty()));
    Ok(rows)
}
