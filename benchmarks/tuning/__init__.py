"""Quality of tuning methods: what each reaches on public sets, over trained parameters, all rates swept alike."""
