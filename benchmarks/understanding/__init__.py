"""Quality of tasks of understanding on public sets: what each set is, and how runs on them are measured."""
