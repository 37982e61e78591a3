"""The lab: a technique's claim, measured on real text with seeds, controls and intervals."""
