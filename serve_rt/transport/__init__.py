"""Requests between a caller and a replica: one long-lived stream carries many, in frames of gathered parts."""
