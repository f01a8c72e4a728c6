"""What labels need work: which are probably wrong, and which texts are worth labelling next.

examples -> Features   TF-IDF, or vectors of a model   -> out_of_fold -> find_errors   labels that look wrong
                                                       -> fit         -> choose_next   texts to label next
"""
