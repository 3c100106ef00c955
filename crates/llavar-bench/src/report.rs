//! `Report`: measured rows, as JSON and as a table.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What was measured where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The machine.
    pub machine: Machine,
    /// Seconds since 1970 at the start.
    pub unix_time: u64,
    /// The model's shape.
    pub shape: String,
    /// One entry a measurement, in the order in which they were made.
    pub rows: Vec<Row>,
}

/// GPU, driver, libraries, and the two ceilings measured on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Product name of the GPU.
    pub gpu: String,
    /// Memory of the card, GiB.
    pub memory_gib: f64,
    /// CUDA version that the driver speaks.
    pub driver_cuda: String,
    /// Version of the driver's kernel module; absent where the system does not tell.
    #[serde(default)]
    pub driver: Option<String>,
    /// cuBLASLt's version number.
    pub cublaslt: usize,
    /// cuDNN's version number; absent where it is missing.
    pub cudnn: Option<usize>,
    /// NVRTC's version.
    pub nvrtc: String,
    /// bf16 product of 8192 x 8192 x 8192 on random values, TFLOP/s.
    pub matmul_tflops: f64,
    /// Copy within the device, read plus written, TB/s.
    pub copy_tbs: f64,
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What was done.
    pub work: String,
    /// The rate reached.
    pub rate: f64,
    /// Unit of the rate.
    pub unit: String,
    /// Time of one repetition, milliseconds.
    pub ms: f64,
    /// The least time that this work needs on this card, milliseconds.
    pub floor_ms: f64,
    /// What sets the floor: operations or bytes, with their number.
    pub floor: String,
    /// Share of 989 TFLOP/s that the model's own operations (nothing computed twice) reach, percent.
    pub mfu_percent: Option<f64>,
    /// Largest memory in use by tensors, GiB.
    pub peak_gib: f64,
    /// Anything else worth knowing.
    pub note: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = &self.machine;
        let cudnn = m.cudnn.map_or("none".to_owned(), |v| v.to_string());
        writeln!(
            f,
            "{} ({:.0} GiB), driver {}, CUDA {}, cuBLASLt {}, cuDNN {cudnn}, NVRTC {}",
            m.gpu,
            m.memory_gib,
            m.driver.as_deref().unwrap_or("unknown"),
            m.driver_cuda,
            m.cublaslt,
            m.nvrtc
        )?;
        writeln!(
            f,
            "ceilings: {:.0} TFLOP/s bf16 products, {:.2} TB/s copies; shape {}",
            m.matmul_tflops, m.copy_tbs, self.shape
        )?;
        writeln!(
            f,
            "{:<52} {:>14} {:>11} {:>10} {:>7} {:>6} {:>9}  floor set by",
            "work", "rate", "time", "floor", "reached", "MFU", "peak"
        )?;
        for row in &self.rows {
            let mfu = row
                .mfu_percent
                .map_or("-".to_owned(), |p| format!("{p:.1} %"));
            writeln!(
                f,
                "{:<52} {:>14} {:>8.2} ms {:>7.2} ms {:>5.0} % {:>6} {:>5.1} GiB  {}{}",
                row.work,
                format!("{} {}", grouped(row.rate), row.unit),
                row.ms,
                row.floor_ms,
                100.0 * row.floor_ms / row.ms,
                mfu,
                row.peak_gib,
                row.floor,
                if row.note.is_empty() {
                    String::new()
                } else {
                    format!("; {}", row.note)
                }
            )?;
        }
        Ok(())
    }
}

/// A rate with three digits or all digits before the point, thousands parted by commas.
fn grouped(rate: f64) -> String {
    if rate < 100.0 {
        return format!("{rate:.1}");
    }
    let digits = format!("{rate:.0}");
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_readable() {
        assert_eq!(grouped(12.34), "12.3");
        assert_eq!(grouped(1234567.8), "1,234,568");
        assert_eq!(grouped(999.6), "1,000");
        assert_eq!(grouped(100.0), "100");
    }
}
