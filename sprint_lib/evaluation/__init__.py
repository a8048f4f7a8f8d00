"""Measuring: resumable runs of a method on a task, statistics with intervals, and the papers' claims beside ours."""
