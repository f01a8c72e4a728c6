"""Cheap classifiers that a fine-tuned model must beat: logistic regression on TF-IDF, and on a model's own vectors.

    texts   -> Ngrams   TF-IDF of words, or of the characters of Chinese   \\
                                                                             > fit_linear -> LinearClassifier
    vectors of a model, scaled                                             /

`fit_tfidf` and `fit_vectors` take a second each and need no setting. `save_tfidf` writes a model folder that
`pretune.load` reads.
"""
