//! A model folder that answers.
