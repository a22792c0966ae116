//! All checks, in their order.

use std::path::PathBuf;

use super::image::Image;
use super::reader::Host;
use super::report::Report;
use super::{host, kvm, sandbox};
use crate::sandbox::confine_reader;

/// Looks at the host and at the images, whose bytes are strangers': the process is
/// confined for good before it reads any.
pub fn examine(at: &Host, images: &[PathBuf]) -> Report {
    let mut report = Report::default();
    host::check(at, &mut report);
    kvm::check(at, &mut report);
    sandbox::check(at, &mut report);
    if images.is_empty() {
        return report;
    }
    let images: Vec<Image> = images.iter().map(|path| Image::open(path)).collect();
    let numbers = images.iter().filter_map(Image::number);
    let confined = confine_reader(numbers, std::iter::empty(), None);
    for image in images {
        image.report(confined.as_ref().copied(), &mut report);
    }
    report
}
