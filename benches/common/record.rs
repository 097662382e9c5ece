//! Everything measured, one value per round, under names such as `calls/1 KiB/1/grpcio/p50_us`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::spread::Spread;

/// Values by name. The n-th value of every name that belongs to one section comes from the same round, which
/// is what makes ratios per round possible.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Record {
    #[serde(flatten)]
    series: BTreeMap<String, Vec<f64>>,
    /// Why something has no value, or no more of them, by the name it would have.
    cannot: BTreeMap<String, String>,
}

impl Record {
    /// Adds this round's value.
    pub(crate) fn push(&mut self, name: impl Into<String>, value: f64) {
        self.series.entry(name.into()).or_default().push(value);
    }

    /// Says why something cannot be measured; it is not tried again in later rounds, so that what there is of it still
    /// begins with the first round.
    pub(crate) fn cannot(&mut self, name: impl Into<String>, reason: impl ToString) {
        let name = name.into();
        let reason = reason.to_string();
        eprintln!("left out: {name}: {reason}");
        self.cannot.insert(name, reason);
    }

    /// Whether something is known not to be measurable.
    pub(crate) fn is_out(&self, name: &str) -> bool {
        self.cannot.contains_key(name)
    }

    /// Everything that cannot be measured, with the reason.
    pub(crate) fn left_out(&self) -> impl Iterator<Item = (&str, &str)> {
        self.cannot
            .iter()
            .map(|(name, reason)| (name.as_str(), reason.as_str()))
    }

    /// Whether anything was recorded under a prefix.
    pub(crate) fn has(&self, prefix: &str) -> bool {
        self.series.keys().any(|name| name.starts_with(prefix))
    }

    /// The values of one name, one per round.
    pub(crate) fn values(&self, name: &str) -> &[f64] {
        self.series.get(name).map_or(&[], Vec::as_slice)
    }

    /// Median and quartiles of one name.
    pub(crate) fn spread(&self, name: &str) -> Option<Spread> {
        Spread::of(self.values(name))
    }

    /// Median and quartiles of `name / base`, taken within each round: a slow minute of the machine hits both
    /// sides and cancels out.
    pub(crate) fn ratio(&self, name: &str, base: &str) -> Option<Spread> {
        let pairs = self.values(name).iter().zip(self.values(base));
        Spread::of(&pairs.map(|(value, base)| value / base).collect::<Vec<_>>())
    }
}
