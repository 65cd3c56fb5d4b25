//! Memory over time as a picture: a panel for each guard.

use std::path::Path;

use plotters::prelude::*;

use super::run::Record;
use super::{LIMIT_BYTES, MIB};

const COLUMNS: usize = 2;
const PANEL_WIDTH_PX: u32 = 480;
const PANEL_HEIGHT_PX: u32 = 220;
/// A little more than the limit, so that its line shows.
const TOP_MIB: f64 = 560.0;

pub(crate) fn draw(path: &Path, records: &[&Record]) -> Result<(), Box<dyn std::error::Error>> {
    let rows = records.len().div_ceil(COLUMNS).max(1);
    let size = (
        PANEL_WIDTH_PX * COLUMNS as u32,
        PANEL_HEIGHT_PX * rows as u32,
    );
    let image = SVGBackend::new(path, size).into_drawing_area();
    image.fill(&WHITE)?;
    // One scale of time, so that panels can be compared.
    let seconds = records
        .iter()
        .filter_map(|record| Some(record.memory.last()?.seconds))
        .fold(1.0, f64::max);
    let limit_mib = LIMIT_BYTES as f64 / MIB;
    for (panel, record) in image.split_evenly((rows, COLUMNS)).iter().zip(records) {
        let caption = format!(
            "{}: {} kills, goodput {:.0} %",
            record.case.guard.word(),
            record.kills,
            record.score_percent()
        );
        let mut chart = ChartBuilder::on(panel)
            .caption(caption, ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(32)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..seconds, 0.0..TOP_MIB)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("seconds")
            .y_desc("MiB")
            .x_label_formatter(&|seconds| format!("{seconds:.0}"))
            .y_label_formatter(&|mib| format!("{mib:.0}"))
            .draw()?;
        chart.draw_series(LineSeries::new(
            [(0.0, limit_mib), (seconds, limit_mib)],
            &RED,
        ))?;
        let points = record.memory.iter().map(|at| (at.seconds, at.mib));
        chart.draw_series(LineSeries::new(points, &BLUE))?;
    }
    image.present()?;
    Ok(())
}
