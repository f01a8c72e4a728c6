"""How what `finetune` chooses by itself was learned: candidates on many public sets, at 8 examples a class and more."""
