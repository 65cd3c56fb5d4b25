//! How settings are logged.

use std::path::{Display, PathBuf};

pub(super) use tracing::field::debug;
use tracing::field::{DisplayValue, display};

use crate::pressure::Pressure;

pub(super) fn copied<T: Copy>(value: &T) -> T {
    *value
}

pub(super) fn given<T>(value: &Option<T>) -> Option<&T> {
    value.as_ref()
}

pub(super) fn count<T>(list: &[T]) -> usize {
    list.len()
}

pub(super) fn level(level: &Option<Pressure>) -> Option<&'static str> {
    level.map(Pressure::as_str)
}

pub(super) fn path(path: &Option<PathBuf>) -> Option<DisplayValue<Display<'_>>> {
    path.as_ref().map(|path| display(path.display()))
}
