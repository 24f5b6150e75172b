"""What a run will need, told before a weight is loaded: the formulas (`needs`) for a model as a `shape`, the machine (`devices`),
the table (`planning`), and what cannot fit here (`forecast`)."""
