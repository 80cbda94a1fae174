//! The metrics of one scrape, as families of samples, and how they are encoded for Prometheus. Knows no metric by name.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::error::{Error, Result};

pub(super) type Labels = Vec<(&'static str, String)>;

/// The observations of one histogram. Each bucket has its upper bound and its own count, which is not cumulative.
#[derive(Debug)]
pub(super) struct Histogram {
    pub(super) sum: f64,
    pub(super) count: u64,
    pub(super) buckets: Vec<(f64, u64)>,
}

#[derive(Debug)]
enum Sample {
    Count(u64),
    Seconds(f64),
    Gauge(i64),
    Histogram(Histogram),
}

#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    samples: Vec<(Labels, Sample)>,
}

/// Every metric at one moment. Each method declares one metric: its name, its help text and, by the method, its type.
#[derive(Debug, Default)]
pub(super) struct Families(Vec<Family>);

impl Families {
    /// A counter with a sample per label set. Prometheus appends `_total` to the name.
    pub(super) fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels, u64)>,
    ) {
        self.add(name, help, MetricType::Counter, samples, Sample::Count);
    }

    /// A counter of seconds with a sample per label set.
    pub(super) fn seconds(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        self.add(name, help, MetricType::Counter, samples, Sample::Seconds);
    }

    /// A gauge with a sample per label set.
    pub(super) fn gauge<V: TryInto<i64>>(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels, V)>,
    ) {
        let sample = |value: V| Sample::Gauge(value.try_into().unwrap_or(i64::MAX));
        self.add(name, help, MetricType::Gauge, samples, sample);
    }

    /// A gauge with one sample and no labels.
    pub(super) fn single_gauge(&mut self, name: &'static str, help: &'static str, value: impl TryInto<i64>) {
        self.gauge(name, help, [(Labels::new(), value)]);
    }

    /// A histogram with a sample per label set.
    pub(super) fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels, Histogram)>,
    ) {
        self.add(name, help, MetricType::Histogram, samples, Sample::Histogram);
    }

    fn add<V>(
        &mut self,
        name: &'static str,
        help: &'static str,
        kind: MetricType,
        samples: impl IntoIterator<Item = (Labels, V)>,
        sample: impl Fn(V) -> Sample,
    ) {
        let samples = samples.into_iter().map(|(labels, value)| (labels, sample(value))).collect();
        self.0.push(Family { name, help, kind, samples });
    }

    /// Returns the metrics in the text format of Prometheus. Every name gets the prefix `wharf_`.
    pub(super) fn into_text(self) -> Result<String> {
        let mut registry = Registry::with_prefix("wharf");
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).map_err(|error| Error::internal("metrics").with_source(error))?;
        Ok(text)
    }
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for family in &self.0 {
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, family.kind)?;
            for (labels, sample) in &family.samples {
                sample.encode(metric.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

impl Sample {
    fn encode(&self, mut metric: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        match self {
            Self::Count(count) => metric.encode_counter::<NoLabelSet, _, u64>(count, None),
            Self::Seconds(seconds) => metric.encode_counter::<NoLabelSet, _, u64>(seconds, None),
            Self::Gauge(value) => metric.encode_gauge(value),
            Self::Histogram(Histogram { sum, count, buckets }) => {
                metric.encode_histogram::<NoLabelSet>(*sum, *count, buckets, None)
            }
        }
    }
}
