//! The published LLaVAR-2 table.

use serde::Serialize;

/// A column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PublishedTask {
    /// Name of our task.
    pub task: &'static str,
    /// Name in the table.
    pub name: &'static str,
    /// Our metric that measures the same.
    pub metric: &'static str,
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PublishedRow {
    /// The model.
    pub model: &'static str,
    /// One value a column: right answers of 1,000 for OCRBench, else percent; none where the table is
    /// blank.
    pub values: [Option<f64>; 8],
}

/// The columns.
pub const TASKS: [PublishedTask; 8] = [
    containment("ocrbench", "OCRBench", "ocrbench"),
    containment("stvqa", "ST-VQA", MULTIMODAL_OCR),
    containment("textvqa", "TextVQA", MULTIMODAL_OCR),
    containment("docvqa", "DocVQA", MULTIMODAL_OCR),
    containment("chartqa", "ChartQA", MULTIMODAL_OCR),
    containment("infovqa", "InfoVQA", MULTIMODAL_OCR),
    containment("funsd", "FUNSD", MULTIMODAL_OCR),
    containment("sroie", "SROIE", MULTIMODAL_OCR),
];

const MULTIMODAL_OCR: &str = "multimodal_ocr_vqa";

const fn containment(
    task: &'static str,
    name: &'static str,
    metric: &'static str,
) -> PublishedTask {
    PublishedTask { task, name, metric }
}

/// The rows.
///
/// # Source
/// The README of the LLaVAR-2 release.
pub const PUBLISHED: [PublishedRow; 3] = [
    PublishedRow {
        model: "LLaVAR-2 3.8B (Phi-3)",
        values: all([634.0, 52.3, 60.2, 66.1, 78.5, 30.3, 36.0, 51.9]),
    },
    PublishedRow {
        model: "LLaVAR-2 8B (Llama 3.1)",
        values: {
            let mut values = all([0.0, 51.6, 61.0, 69.3, 69.9, 32.0, 32.3, 58.4]);
            values[0] = None;
            values
        },
    },
    PublishedRow {
        model: "LLaVAR-2 13B (Vicuna 1.5)",
        values: all([680.0, 59.5, 66.0, 71.3, 76.3, 40.2, 36.7, 61.9]),
    },
];

const fn all(values: [f64; 8]) -> [Option<f64>; 8] {
    let mut some = [None; 8];
    let mut at = 0;
    while at < 8 {
        some[at] = Some(values[at]);
        at += 1;
    }
    some
}

/// What a reader must know before comparing with them.
pub(super) const REMARK: &str = "Published rows: OCRBench counts right answers of 1,000, the others are \
percent. The publication does not name the metric; logs and answer files of the release are those of \
MultimodalOCR containment with OCR text before every question, so they are taken as that, with OCR on. A row \
of another OCR mode, of another metric, or over a part of the questions is another measurement.";
