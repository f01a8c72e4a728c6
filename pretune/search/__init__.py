"""Search in one's own texts: an index of passages by words and by vectors, fusion, reranking, answers with sources."""
