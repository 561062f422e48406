"""Arms served by an OpenAI-compatible completions server (vLLM, SGLang, llama.cpp, Ollama)."""
