//! Logarithmic axes.

/// Values on a logarithmic axis, from one place on the picture to another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Log {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

/// Steps within a decade at which an axis may begin and end, and has a line.
const STEPS: [f64; 3] = [1.0, 2.0, 5.0];

impl Log {
    /// An axis that has room for all positive values; `None` without any.
    pub(super) fn over(values: impl Iterator<Item = f64>, (from, to): (f64, f64)) -> Option<Self> {
        let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
        for value in values.filter(|value| *value > 0.0 && value.is_finite()) {
            (least, most) = (least.min(value), most.max(value));
        }
        if most == 0.0 {
            return None;
        }
        let below = steps(least, most).take_while(|step| *step <= least).last()?;
        let above = steps(least, most).find(|step| *step > most)?;
        Some(Self {
            low: below,
            high: above,
            from,
            to,
        })
    }

    /// An axis from one value to another, with a little room at both ends.
    pub(super) fn between(low: f64, high: f64, place: (f64, f64)) -> Self {
        let room = (high / low).powf(0.04).max(1.05);
        Self {
            low: low / room,
            high: high * room,
            from: place.0,
            to: place.1,
        }
    }

    /// Where a value is.
    pub(super) fn at(self, value: f64) -> f64 {
        let share = (value.max(self.low) / self.low).log10() / (self.high / self.low).log10();
        self.from + (self.to - self.from) * share
    }

    /// Where lines go: value, and whether it begins a decade.
    pub(super) fn ticks(self) -> impl Iterator<Item = (f64, bool)> {
        let within = steps(self.low, self.high).take_while(move |step| *step <= self.high * 1.001);
        within
            .filter(move |step| *step >= self.low * 0.999)
            .map(|step| (step, (step.log10() - step.log10().round()).abs() < 1e-9))
    }
}

/// 1, 2, 5, 10, 20, 50 and so on, from the decade of `low` to beyond `high`.
fn steps(low: f64, high: f64) -> impl Iterator<Item = f64> {
    let first = low.log10().floor() as i32;
    let last = high.log10().ceil() as i32;
    (first..=last).flat_map(|decade| STEPS.map(move |step| step * 10_f64.powi(decade)))
}

/// `1,000`, `50`, `0.2`.
pub(super) fn label(value: f64) -> String {
    if value < 1.0 {
        return format!("{value}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
