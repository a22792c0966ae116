//! Counters of a VM and its API, as plain rows; the API exports them.

/// One count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What counts: a group of Firecracker's, or one of Mote's.
    pub(crate) group: &'static str,
    /// Which of them, if there may be several.
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) value: u64,
    /// It is no count but the latest value.
    pub(crate) gauge: bool,
}

/// All counts of a moment.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// When, in milliseconds since 1970.
    pub(crate) ms: i64,
    pub(crate) rows: Vec<Row>,
}

impl Counts {
    /// Adds the counts of one `group`, of the member `id` if it has several.
    pub fn add(&mut self, group: &'static str, id: &str, counts: &[(&str, u64)]) {
        self.put(group, id, counts, false);
    }

    /// The same of values that are no counts.
    pub fn gauge(&mut self, group: &'static str, counts: &[(&str, u64)]) {
        self.put(group, "", counts, true);
    }

    fn put(&mut self, group: &'static str, id: &str, counts: &[(&str, u64)], gauge: bool) {
        let row = |&(name, value): &(&str, u64)| Row {
            group,
            id: id.to_owned(),
            name: name.to_owned(),
            value,
            gauge,
        };
        self.rows.extend(counts.iter().map(row));
    }
}
