//! Importers of published data sets into LLaVA JSON.

pub mod sroie;
