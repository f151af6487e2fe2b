import { createClassifier } from "./classifier.js";

void createClassifier;
